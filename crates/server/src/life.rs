use axum::{Json, extract::State};
use sandbar_core::Result;
use sandbar_runtime::{GcReport, Sandbox, SandboxSummary};

use crate::{
    extract::Path,
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
pub(crate) async fn pause(State(app): State<App>, Path(id): Path<String>) -> Answer<Json<SandboxSummary>> {
    turn(app, id, |sandbox| async move { sandbox.pause().await }).await
}

/// Let a paused sandbox go on
#[utoipa::path(post, path = "/v1/sandboxes/{id}/resume", tag = "sandboxes", operation_id = "resume_sandbox", params(("id" = String, Path)),
    responses((status = 200, body = SandboxSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn resume(State(app): State<App>, Path(id): Path<String>) -> Answer<Json<SandboxSummary>> {
    turn(app, id, |sandbox| async move { sandbox.resume().await }).await
}

/// End the processes of a sandbox, and keep its files
#[utoipa::path(post, path = "/v1/sandboxes/{id}/stop", tag = "sandboxes", operation_id = "stop_sandbox", params(("id" = String, Path)),
    responses((status = 200, body = SandboxSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn stop(State(app): State<App>, Path(id): Path<String>) -> Answer<Json<SandboxSummary>> {
    turn(app, id, |sandbox| async move { sandbox.stop().await }).await
}

/// Run a stopped or crashed sandbox again, on the files it had
#[utoipa::path(post, path = "/v1/sandboxes/{id}/start", tag = "sandboxes", operation_id = "start_sandbox", params(("id" = String, Path)),
    responses((status = 200, body = SandboxSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn start(State(app): State<App>, Path(id): Path<String>) -> Answer<Json<SandboxSummary>> {
    turn(app, id, |sandbox| async move { sandbox.start().await }).await
}

/// Finish or undo what dead processes left, and remove what nobody needs
#[utoipa::path(post, path = "/v1/gc", tag = "host", operation_id = "collect_garbage",
    responses((status = 200, body = GcReport), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn gc(State(app): State<App>) -> Answer<Json<GcReport>> {
    Ok(Json(app.runtime.gc().await?))
}
