//! What the engine says, as this project's errors.

use std::{error::Error as StdError, io};

use bollard::errors::Error as Said;
use sandbar_core::{Error, ErrorKind};

use super::endpoint::Endpoint;

pub(super) const OPERATION: &str = "docker";

/// An error of a request to the engine at `endpoint`; `what` is the object of `cannot`.
pub(super) fn explain(endpoint: &Endpoint, what: &str, error: Said) -> Error {
    let message = format!("cannot {what}");
    let refusal = match &error {
        Said::DockerResponseServerError { status_code, message: said } => Some((*status_code, said)),
        // What failed after the answer had begun.
        Said::DockerStreamError { error: said } => Some((500, said)),
        _ => None,
    };
    if let Some((status, said)) = refusal {
        return Error::new(kind_of(status, said), OPERATION, message).with("engine", endpoint).with_source(io::Error::other(said.clone()));
    }
    let refused = match io_kind(&error) {
        Some(io::ErrorKind::PermissionDenied) => {
            let hint = match endpoint {
                Endpoint::Unix(path) => format!("{}, or run sandbar as root", group_hint(path)),
                Endpoint::Tcp(_) => "the engine's address must allow this user".to_owned(),
            };
            Error::new(ErrorKind::PermissionDenied, OPERATION, "this user may not talk to the engine").with_hint(hint)
        }
        Some(io::ErrorKind::TimedOut) => Error::new(ErrorKind::TimedOut, OPERATION, format!("{message}: the engine does not answer")),
        // A connection that cannot be made, or is cut in the middle.
        _ if is_transport(&error) => Error::new(ErrorKind::Unavailable, OPERATION, format!("{message}: the engine is gone"))
            .with_hint("start the engine again (systemctl start docker); what it keeps of the sandbox is kept"),
        _ => Error::new(ErrorKind::Internal, OPERATION, message),
    };
    refused.with("engine", endpoint).with_source(error)
}

/// An engine that did not answer in time.
pub(super) fn late(endpoint: &Endpoint, what: &str, seconds: u64) -> Error {
    Error::new(ErrorKind::TimedOut, OPERATION, format!("cannot {what}: the engine did not answer within {seconds} s"))
        .with("engine", endpoint)
}

/// Whether the engine does not know what was named.
pub(super) fn is_missing(error: &Said) -> bool {
    matches!(error, Said::DockerResponseServerError { status_code: 404, .. })
}

fn kind_of(status: u16, said: &str) -> ErrorKind {
    let said = said.to_lowercase();
    if said.contains("no space left") || said.contains("disk quota exceeded") {
        return ErrorKind::ResourceExhausted;
    }
    // A registry that the engine cannot reach.
    if ["dial tcp", "no such host", "i/o timeout", "tls handshake timeout"].iter().any(|words| said.contains(words)) {
        return ErrorKind::Unavailable;
    }
    match status {
        400 => ErrorKind::InvalidInput,
        401 | 403 => ErrorKind::PermissionDenied,
        404 => ErrorKind::NotFound,
        409 => ErrorKind::Conflict,
        501 => ErrorKind::Unsupported,
        503 => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

/// Which kind of input or output failed, at the end of the chain.
fn io_kind(error: &Said) -> Option<io::ErrorKind> {
    // This one stands for what it holds, and names only the sources of that.
    if let Said::IOError { err } = error {
        return Some(err.kind());
    }
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = error.source();
    }
    None
}

fn is_transport(error: &Said) -> bool {
    io_kind(error).is_some()
        || matches!(error, Said::HyperResponseError { .. } | Said::HyperLegacyError { .. } | Said::SocketNotFoundError(_))
}

/// Who may open the socket.
fn group_hint(path: &std::path::Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let group = std::fs::metadata(path).ok().and_then(|found| {
        let table = std::fs::read_to_string("/etc/group").ok()?;
        table.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(found.gid())).then(|| name.to_owned())
        })
    });
    match group.as_deref() {
        Some("root") | None => "only root may open the socket: give it a group (the engine's option --group)".to_owned(),
        Some(group) => {
            format!("members of the group {group} may (usermod --append --groups {group} USER, then log in again; it is as good as root)")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(status_code: u16, message: &str) -> Error {
        let error = Said::DockerResponseServerError { status_code, message: message.to_owned() };
        explain(&Endpoint::Unix("/run/x.sock".into()), "start the container", error)
    }

    #[test]
    fn statuses_and_full_disks_are_told_apart() {
        assert_eq!(said(404, "No such image").kind(), ErrorKind::NotFound);
        assert_eq!(said(500, "write /x: no space left on device").kind(), ErrorKind::ResourceExhausted);
        assert_eq!(said(500, "Get \"https://r/v2/\": dial tcp: lookup r: no such host").kind(), ErrorKind::Unavailable);
        assert_eq!(said(500, "something else").kind(), ErrorKind::Internal);
        assert!(said(500, "something else").chain().contains("something else"));
    }

    #[test]
    fn what_fails_in_the_middle_of_an_answer_is_told_apart_as_well() {
        let error = Said::DockerStreamError { error: "write /layer.tar: no space left on device".to_owned() };
        assert_eq!(explain(&Endpoint::Unix("/run/x.sock".into()), "load an image", error).kind(), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn a_socket_without_permission_names_the_group() {
        let error = Said::from(io::Error::from(io::ErrorKind::PermissionDenied));
        let error = explain(&Endpoint::Unix("/proc/self/status".into()), "look", error);
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.hint().is_some_and(|hint| hint.contains("root")), "{error:?}");
    }
}
