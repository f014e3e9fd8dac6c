use axum::{
    extract::{FromRequest, FromRequestParts, Request, rejection::JsonRejection, ws::WebSocketUpgrade},
    http::{StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::problem::Problem;

/// A message of a WebSocket's client at most.
const LARGEST_MESSAGE: usize = 1 << 20;
/// What is read from a WebSocket at once.
const READ_AHEAD: usize = 16 << 10;
/// Bytes of messages after which they go out, though more are there.
const WRITE_BEHIND: usize = 64 << 10;

/// A JSON body. Fields that are not known are refused by the types themselves.
pub(crate) struct Body<T>(pub(crate) T);

/// A query.
pub(crate) struct Query<T>(pub(crate) T);

/// A request for a WebSocket.
pub(crate) struct Upgrade(pub(crate) WebSocketUpgrade);

/// The parts of a path.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body = match axum::Json::<Value>::from_request(request, state).await {
            Ok(axum::Json(body)) => body,
            // What does not fit is a bad request like any other; only size and media type have statuses of their own.
            Err(JsonRejection::JsonDataError(error)) => return Err(bad(error.body_text())),
            Err(JsonRejection::JsonSyntaxError(error)) => return Err(bad(error.body_text())),
            Err(other) => return Err(Problem::with_status(other.status(), "invalid_input", other.body_text())),
        };
        // A list of values would be taken for the fields, in their order.
        if !body.is_object() {
            return Err(bad("the body is an object".to_owned()));
        }
        serde_json::from_value(body).map(Self).map_err(|error| bad(format!("the body does not fit: {error}")))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = axum::extract::Query::<T>::from_request_parts(parts, state).await;
        query.map(|axum::extract::Query(query)| Self(query)).map_err(|error| bad(error.body_text()))
    }
}

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = axum::extract::Path::<T>::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(path)| Self(path)).map_err(|error| bad(error.body_text()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let upgrade = WebSocketUpgrade::from_request_parts(parts, state).await;
        upgrade
            .map(|upgrade| Self(bounded(upgrade)))
            .map_err(|error| Problem::with_status(error.status(), "invalid_input", error.body_text()))
    }
}

/// What a client may have this process hold: input comes in pieces, and there may be thousands of connections that say little.
fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade.max_message_size(LARGEST_MESSAGE).max_frame_size(LARGEST_MESSAGE).read_buffer_size(READ_AHEAD).write_buffer_size(WRITE_BEHIND)
}

fn bad(detail: String) -> Problem {
    Problem::with_status(StatusCode::BAD_REQUEST, "invalid_input", detail)
}
