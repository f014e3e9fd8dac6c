//! What gVisor's kernel says of what it cannot save with memory, as an error that names it.

use sandbar_core::{Error, ErrorKind, Result, SandboxSpec};

/// The first thing that could not be saved, from the words of `runsc checkpoint`, alone or within those of an engine; `None` where they name nothing
/// that is known here. (The words are gVisor's: `pkg/sentry/socket/unix/transport/host.go`, `pkg/tcpip/transport/tcp/endpoint_state.go`,
/// `pkg/sentry/fsimpl/gofer/save_restore.go`.)
pub(crate) fn named(text: &str) -> Option<Error> {
    let refused = |message: &str| Error::new(ErrorKind::Conflict, "checkpoint", message.to_owned());
    if text.contains("bound host socket") {
        let error = refused("a unix socket that is bound in the file system cannot be saved with memory");
        // The kernel prints the object that it stumbled over.
        let path = text.split_once(", path:\"").and_then(|(_, rest)| rest.split_once('"'));
        let error = match path {
            Some((path, _)) => error.with("socket", path.escape_debug()),
            None => error,
        };
        return Some(
            error.with_hint(
                "end the process that listens there, or bind it below /dev/shm or as an abstract socket; or save without memory",
            ),
        );
    }
    if let Some((_, ends)) = text.split_once("endpoint cannot be saved in connected state: local ") {
        let error = refused("a TCP connection to outside of the sandbox cannot be saved with memory");
        let ends = ends.lines().next().unwrap_or_default().trim_end_matches(':').split_once(", remote ");
        let error = match ends {
            Some((local, remote)) => error.with("local", local.escape_debug()).with("remote", remote.escape_debug()),
            None => error,
        };
        return Some(error.with_hint("end the process that holds it, or save without memory"));
    }
    // The name is within quotes and escaped, as Go does it. It may have what follows in it: the last is the kernel's own.
    let (dentry, _) = text.split_once("\").beforeSave: deleted and invalidated dentries can't be restored")?;
    let (_, name) = dentry.split_once("gofer.dentry(\"")?;
    Some(
        refused("a deleted file or folder that a process still holds cannot be saved with memory")
            .with("name", name.escape_debug())
            .with_hint("end the process that holds it, or let it hold one in memory (/dev/shm, memfd_create); or save without memory"),
    )
}

/// Refuses what has connections to addresses that only redirection made the loopback device's: a load begins with a network stack without them, and ends with the
/// sentry where it finds such a connection, one that was closed within the last minute included.
///
/// # Errors
/// `Conflict`.
pub(crate) fn refuse_network(spec: &SandboxSpec) -> Result<()> {
    if spec.network.policy().is_none() {
        return Ok(());
    }
    let error = Error::new(ErrorKind::Conflict, "checkpoint", "gVisor cannot load the memory of a sandbox that something may leave");
    Err(error.with("network", &spec.network).with_hint("save without memory, or make it with --net none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of `runsc` 20240729, each followed by the trace of a program.
    fn said(of: &str) -> String {
        format!(
            "checkpoint failed: checkpointing container \"sb-1\": encoding error: {of}:\ngoroutine 56 [running]:\n\
             gvisor.dev/gvisor/pkg/state.safely.func1()\n\tgvisor.dev/gvisor/pkg/state/state.go:309 +0x179\n"
        )
    }

    fn message(of: &str) -> String {
        let error = named(&said(of)).unwrap();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.hint().is_some_and(|hint| hint.contains("save without memory")), "{error}");
        error.to_string()
    }

    #[test]
    fn a_connection_to_outside_is_named_by_both_ends() {
        let ends = "save rejected due to unsupported networking state: endpoint cannot be saved in connected state: \
             local 10.77.0.2:17882, remote 10.77.0.1:4777";
        let message = message(ends);
        assert!(
            message.contains("TCP connection") && message.contains("10.77.0.2:17882") && message.contains("10.77.0.1:4777"),
            "{message}"
        );
        assert!(!message.contains("4777:"), "{message}");
    }

    #[test]
    fn a_deleted_file_is_named() {
        let message = message("gofer.dentry(\"d d\\\"q\").beforeSave: deleted and invalidated dentries can't be restored");
        assert!(message.contains("deleted file") && message.contains("d d") && message.contains('q'), "{message}");
    }

    #[test]
    fn a_bound_socket_is_named_by_its_path_where_that_is_told() {
        let without = message("Cannot save endpoint with bound host socket");
        assert!(without.contains("unix socket"), "{without}");
        let told = "Cannot save endpoint with bound host socket:\nobject: transport.boundSocketFD, path:\"/root/a.sock\", x";
        assert!(message(told).contains("/root/a.sock"));
    }

    #[test]
    fn what_nothing_is_known_of_has_no_name() {
        assert!(named(&said("something else")).is_none());
        assert!(named("").is_none());
    }
}
