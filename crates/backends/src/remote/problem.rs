use http::StatusCode;
use sandbar_core::{Error, ErrorKind};
use serde::Deserialize;
use serde_json::Value;

pub(super) const OPERATION: &str = "remote";

/// What of a problem document (RFC 9457) is needed to make an error of it again.
#[derive(Debug, Deserialize)]
struct Problem {
    kind: String,
    detail: String,
    hint: Option<String>,
}

/// The error that another sandbar told.
pub(super) fn error_of(problem: &Value) -> Error {
    match Problem::deserialize(problem) {
        Ok(problem) => {
            // A newer server may know kinds that this client does not.
            let kind = ErrorKind::from_name(&problem.kind).unwrap_or(ErrorKind::Internal);
            let error = Error::new(kind, OPERATION, problem.detail);
            match problem.hint {
                Some(hint) => error.with_hint(hint),
                None => error,
            }
        }
        Err(error) => strange("an error that is no problem document").with_source(error),
    }
}

/// The error of an answer that is none of success.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> Error {
    let problem = serde_json::from_slice::<Value>(body).ok().filter(|problem| problem.get("kind").is_some());
    match (status, problem) {
        (StatusCode::UNAUTHORIZED, Some(_)) => Error::new(ErrorKind::PermissionDenied, OPERATION, "the server does not take the key")
            .with_hint("give the server's key: sandbar context add NAME URL --key-file FILE, or SANDBAR_KEY"),
        (_, Some(problem)) => error_of(&problem),
        (status, None) => strange("what answers there is no sandbar, or something between has refused").with("status", status.as_u16()),
    }
}

/// What answers does not speak as it should.
pub(super) fn strange(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, message).with_hint("is the address that of a sandbar server, and of this version?")
}

/// A connection that was cut, or could not be made.
pub(super) fn lost(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_come_back_as_the_kind_they_were() {
        for kind in ErrorKind::ALL {
            let body = json!({ "kind": kind.name(), "detail": "exec: it", "hint": "do" }).to_string();
            let error = refusal(StatusCode::from_u16(kind.http_status()).unwrap(), body.as_bytes());
            assert_eq!((error.kind(), error.message(), error.hint()), (kind, "exec: it", Some("do")));
        }
    }

    #[test]
    fn what_is_no_problem_document_is_told_as_such() {
        for body in ["", "<html>", "{}", "[]", "null"] {
            assert_eq!(refusal(StatusCode::BAD_GATEWAY, body.as_bytes()).kind(), ErrorKind::Unavailable, "{body}");
        }
        assert_eq!(refusal(StatusCode::BAD_REQUEST, br#"{"kind":"new","detail":"x"}"#).kind(), ErrorKind::Internal);
        assert_eq!(refusal(StatusCode::UNAUTHORIZED, br#"{"kind":"permission_denied","detail":"x"}"#).kind(), ErrorKind::PermissionDenied);
    }
}
