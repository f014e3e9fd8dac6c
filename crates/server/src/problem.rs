use axum::{
    Json,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use sandbar_core::{Error, ErrorKind};
use serde::Serialize;
use utoipa::ToSchema;

/// What an answer gives.
pub(crate) type Answer<T> = Result<T, Problem>;

/// An error, as a problem document (RFC 9457). The status and `kind` are those of the one table of errors.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `about:blank`: the status says what kind of problem it is, and `kind` says it more closely.
    r#type: &'static str,
    /// The kind, for people.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What happened, with its causes.
    detail: String,
    /// What a client can act on: `not_found`, `conflict`, `unavailable` …
    kind: &'static str,
    /// What the user can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Problem {
    pub(crate) fn with_status(status: StatusCode, kind: &'static str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error").to_owned();
        Self { r#type: "about:blank", title, status: status.as_u16(), detail: detail.into(), kind, hint: None }
    }

    pub(crate) fn with_hint(self, hint: &str) -> Self {
        Self { hint: Some(hint.to_owned()), ..self }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        if kind == ErrorKind::Internal {
            tracing::error!(error = error.chain(), "a request failed by a defect");
        }
        Self {
            r#type: "about:blank",
            title: kind.name().replace('_', " "),
            status: kind.http_status(),
            detail: error.chain(),
            kind: kind.name(),
            hint: error.hint().map(str::to_owned),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(self)).into_response()
    }
}
