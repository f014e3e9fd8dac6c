use std::time::Duration;

use axum::{Json, http::StatusCode};
use sandbar_core::Result;
use sandbar_runtime::{GcReport, Sandbox, SandboxSummary};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    caller::{Admin, Manage, May},
    extract::{Body, Path},
    problem::{Answer, Problem},
    service::App,
};

async fn turn<Turned: Future<Output = Result<()>>>(
    app: App,
    id: String,
    verb: impl FnOnce(Sandbox) -> Turned,
) -> Answer<Json<SandboxSummary>> {
    let sandbox = app.runtime.sandbox(&id).await?;
    verb(sandbox.clone()).await?;
    Ok(Json(sandbox.summary().await?))
}

/// Freeze everything inside a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/pause", tag = "sandboxes", operation_id = "pause_sandbox", params(("id" = String, Path)),
    responses((status = 200, body = SandboxSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn pause(app: May<Manage>, Path(id): Path<String>) -> Answer<Json<SandboxSummary>> {
    turn(app.into_app(), id, |sandbox| async move { sandbox.pause().await }).await
}

/// Let a paused sandbox go on
#[utoipa::path(post, path = "/v1/sandboxes/{id}/resume", tag = "sandboxes", operation_id = "resume_sandbox", params(("id" = String, Path)),
    responses((status = 200, body = SandboxSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn resume(app: May<Manage>, Path(id): Path<String>) -> Answer<Json<SandboxSummary>> {
    turn(app.into_app(), id, |sandbox| async move { sandbox.resume().await }).await
}

/// End the processes of a sandbox, and keep its files
#[utoipa::path(post, path = "/v1/sandboxes/{id}/stop", tag = "sandboxes", operation_id = "stop_sandbox", params(("id" = String, Path)),
    responses((status = 200, body = SandboxSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn stop(app: May<Manage>, Path(id): Path<String>) -> Answer<Json<SandboxSummary>> {
    turn(app.into_app(), id, |sandbox| async move { sandbox.stop().await }).await
}

/// Run a stopped or crashed sandbox again, on the files it had
#[utoipa::path(post, path = "/v1/sandboxes/{id}/start", tag = "sandboxes", operation_id = "start_sandbox", params(("id" = String, Path)),
    responses((status = 200, body = SandboxSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn start(app: May<Manage>, Path(id): Path<String>) -> Answer<Json<SandboxSummary>> {
    turn(app.into_app(), id, |sandbox| async move { sandbox.start().await }).await
}

/// How long a sandbox has.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Respite {
    /// It is destroyed this many milliseconds from now on, whatever was said before.
    ttl_ms: u64,
}

/// Let a sandbox live longer, or less long
#[utoipa::path(post, path = "/v1/sandboxes/{id}/expiry", tag = "sandboxes", operation_id = "extend_sandbox", params(("id" = String, Path)),
    request_body = Respite,
    responses((status = 204, description = "That is how long it has"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn extend(app: May<Manage>, Path(id): Path<String>, Body(respite): Body<Respite>) -> Answer<StatusCode> {
    app.runtime.sandbox(&id).await?.expire_in(Duration::from_millis(respite.ttl_ms)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Finish or undo what dead processes left, and remove what nobody needs
#[utoipa::path(post, path = "/v1/gc", tag = "host", operation_id = "collect_garbage",
    responses((status = 200, body = GcReport), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn gc(app: May<Admin>) -> Answer<Json<GcReport>> {
    Ok(Json(app.runtime.gc().await?))
}
