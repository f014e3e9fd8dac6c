use std::time::Duration;

use axum::{Json, http::StatusCode, response::IntoResponse};
use sandbar_runtime::{KeySummary, NewKey, Scope};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    caller::{Admin, May},
    extract::{Body, Path},
    problem::{Answer, Problem},
};

/// List the keys of this server, without their secrets
#[utoipa::path(get, path = "/v1/keys", tag = "keys", operation_id = "list_keys",
    responses((status = 200, body = [KeySummary]), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(app: May<Admin>) -> Answer<Json<Vec<KeySummary>>> {
    Ok(Json(app.runtime.keys()?))
}

/// What a new key shall be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// A name that no other key has.
    name: String,
    /// What its holder may; `manage` if it is left out.
    scope: Option<Scope>,
    /// How many sandboxes made with it may be there at once.
    max_sandboxes: Option<u32>,
    /// It opens for this many milliseconds.
    ttl_ms: Option<u64>,
}

/// A new key.
#[derive(Serialize, ToSchema)]
pub(crate) struct Made {
    #[serde(flatten)]
    key: KeySummary,
    /// Its secret, which is told this once.
    secret: String,
}

/// Make a key
#[utoipa::path(post, path = "/v1/keys", tag = "keys", operation_id = "create_key", request_body = Wanted,
    responses((status = 201, body = Made), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(app: May<Admin>, Body(wanted): Body<Wanted>) -> Answer<impl IntoResponse> {
    let Wanted { name, scope, max_sandboxes, ttl_ms } = wanted;
    let new = NewKey { name, scope: scope.unwrap_or(Scope::Manage), max_sandboxes, ttl: ttl_ms.map(Duration::from_millis) };
    let (key, secret) = app.runtime.create_key(&new)?;
    Ok((StatusCode::CREATED, [("cache-control", "no-store")], Json(Made { key, secret })))
}

/// Remove a key: it opens nothing from then on. What was made with it stays
#[utoipa::path(delete, path = "/v1/keys/{name}", tag = "keys", operation_id = "remove_key", params(("name" = String, Path)),
    responses((status = 204, description = "It opens nothing"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn remove(app: May<Admin>, Path(name): Path<String>) -> Answer<StatusCode> {
    app.runtime.remove_key(&name)?;
    Ok(StatusCode::NO_CONTENT)
}
