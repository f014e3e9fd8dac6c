use std::time::Duration;

use axum::{Json, http::StatusCode, response::IntoResponse};
use sandbar_core::{CheckpointId, CheckpointKind, Lifetime, Limits, SandboxId};
use sandbar_runtime::{CheckpointSummary, ForkOptions, RestoreOptions, SandboxSummary};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::{
    caller::{Manage, May, Read},
    extract::{Body, Path, Query},
    page::{Listing, Page, Wanted},
    problem::{Answer, Problem},
};

/// What is saved.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saving {
    /// Its id, of a client that must know it before the checkpoint is there: `cp-` and twelve characters of `bcdfghjkmnpqrstv`.
    id: Option<CheckpointId>,
    /// The files alone, or the processes too; the files if it is left out.
    kind: Option<CheckpointKind>,
    /// A name that no other checkpoint has.
    name: Option<String>,
}

/// Save a sandbox
#[utoipa::path(post, path = "/v1/sandboxes/{id}/checkpoints", tag = "checkpoints", operation_id = "create_checkpoint", params(("id" = String, Path)),
    request_body = Saving,
    responses((status = 201, body = CheckpointSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn create(app: May<Manage>, Path(id): Path<String>, Body(saving): Body<Saving>) -> Answer<impl IntoResponse> {
    let kind = saving.kind.unwrap_or(CheckpointKind::Disk);
    let sandbox = app.runtime.sandbox(&id).await?;
    let checkpoint = match saving.id {
        Some(id) => sandbox.checkpoint_as(id, kind, saving.name).await?,
        None => sandbox.checkpoint(kind, saving.name).await?,
    };
    Ok((StatusCode::CREATED, Json(checkpoint)))
}

/// Which checkpoints are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    /// Those of this sandbox alone.
    sandbox: Option<String>,
    /// A page of at most this many entries: 1 to 1000, 100 if there is only a cursor. All of them are told, as a list, if both are left out.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List the checkpoints, the oldest first
#[utoipa::path(get, path = "/v1/checkpoints", tag = "checkpoints", operation_id = "list_checkpoints", params(Filter),
    responses((status = 200, body = Listing<CheckpointSummary>), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(app: May<Read>, Query(filter): Query<Filter>) -> Answer<Json<Listing<CheckpointSummary>>> {
    let Filter { sandbox, limit, cursor } = filter;
    let wanted = Wanted { limit, cursor };
    if !wanted.is_part() {
        return Ok(Json(Listing::All(app.runtime.checkpoints(sandbox.as_deref()).await?)));
    }
    let (items, next) = app.runtime.checkpoints_after(sandbox.as_deref(), wanted.after()?, wanted.limit()?).await?;
    Ok(Json(Listing::Part(Page::new(items, next))))
}

/// Tell about a checkpoint
#[utoipa::path(get, path = "/v1/checkpoints/{checkpoint}", tag = "checkpoints", operation_id = "inspect_checkpoint",
    params(("checkpoint" = String, Path, description = "An id, a name, or the beginning of an id")),
    responses((status = 200, body = CheckpointSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn inspect(app: May<Read>, Path(checkpoint): Path<String>) -> Answer<Json<CheckpointSummary>> {
    Ok(Json(app.runtime.checkpoint(&checkpoint).await?))
}

/// Remove a checkpoint
#[utoipa::path(delete, path = "/v1/checkpoints/{checkpoint}", tag = "checkpoints", operation_id = "remove_checkpoint",
    params(("checkpoint" = String, Path)),
    responses((status = 204, description = "It is gone"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn remove(app: May<Manage>, Path(checkpoint): Path<String>) -> Answer<StatusCode> {
    app.runtime.remove_checkpoint(&checkpoint).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a sandbox is put back to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Restoring {
    /// The checkpoint.
    checkpoint: String,
    /// Take the disk of a checkpoint with memory alone.
    #[serde(default)]
    without_memory: bool,
}

/// Put a sandbox back to a checkpoint
#[utoipa::path(post, path = "/v1/sandboxes/{id}/restore", tag = "checkpoints", operation_id = "restore_sandbox", params(("id" = String, Path)),
    request_body = Restoring,
    responses((status = 200, body = SandboxSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn restore(app: May<Manage>, Path(id): Path<String>, Body(restoring): Body<Restoring>) -> Answer<Json<SandboxSummary>> {
    let sandbox = app.runtime.sandbox(&id).await?;
    sandbox.restore(&restoring.checkpoint, RestoreOptions { without_memory: restoring.without_memory }).await?;
    Ok(Json(sandbox.summary().await?))
}

/// New sandboxes from a checkpoint, or from a sandbox.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Forking {
    /// The checkpoint, or a sandbox, which is saved first.
    from: String,
    /// How many; one if it is left out.
    count: Option<u32>,
    /// The id of a single fork, as in the creation of a sandbox.
    id: Option<SandboxId>,
    /// The host name inside; the origin's if it is left out.
    hostname: Option<String>,
    /// What it may use at most; as the origin if it is left out.
    limits: Option<Limits>,
    /// The name of the fork; with several, its beginning.
    name: Option<String>,
    /// The provider; that of the checkpoint if it is left out.
    provider: Option<String>,
    /// Each is destroyed this many milliseconds after its creation.
    ttl_ms: Option<u64>,
    /// Take the disk of a checkpoint with memory alone.
    #[serde(default)]
    without_memory: bool,
}

/// Make sandboxes from a checkpoint or a sandbox: all, or none
#[utoipa::path(post, path = "/v1/forks", tag = "checkpoints", operation_id = "fork", request_body = Forking,
    responses((status = 201, body = [SandboxSummary]), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn fork(app: May<Manage>, Body(forking): Body<Forking>) -> Answer<impl IntoResponse> {
    // Without one it is that of the checkpoint.
    if let Some(provider) = forking.provider.as_deref().filter(|name| *name != "auto") {
        crate::host::require_own(&app.runtime, Some(provider))?;
    }
    let options = ForkOptions {
        id: forking.id,
        hostname: forking.hostname,
        limits: forking.limits,
        name: forking.name,
        provider: forking.provider,
        lifetime: Lifetime::Detached,
        ttl: forking.ttl_ms.map(Duration::from_millis),
        without_memory: forking.without_memory,
    };
    let mut made = Vec::new();
    for sandbox in app.runtime.fork(&forking.from, forking.count.unwrap_or(1), options).await? {
        made.push(sandbox.summary().await?);
    }
    Ok((StatusCode::CREATED, Json(made)))
}
