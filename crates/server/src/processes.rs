use axum::{Json, http::StatusCode};
use sandbar_core::{Error, ErrorKind, ProcessInfo};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    caller::{May, Read, Use},
    extract::{Body, Path},
    problem::{Answer, Problem},
};

/// A process that was started.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Started {
    /// Its process id inside.
    pub(crate) pid: u32,
}

/// A signal.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Signalled {
    /// Its name or number: `TERM`, `SIGTERM`, `15`.
    signal: String,
}

/// List the processes that exec started, running and ended
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes", tag = "commands", operation_id = "list_processes", params(("id" = String, Path)),
    responses((status = 200, body = [ProcessInfo]), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(app: May<Read>, Path(id): Path<String>) -> Answer<Json<Vec<ProcessInfo>>> {
    Ok(Json(app.runtime.sandbox(&id).await?.processes().await?))
}

/// Tell about a process
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes/{pid}", tag = "commands", operation_id = "inspect_process",
    params(("id" = String, Path), ("pid" = u32, Path)),
    responses((status = 200, body = ProcessInfo), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn inspect(app: May<Read>, Path((id, pid)): Path<(String, u32)>) -> Answer<Json<ProcessInfo>> {
    let processes = app.runtime.sandbox(&id).await?.processes().await?;
    let missing = || Error::new(ErrorKind::NotFound, "process", "exec started no such process").with("pid", pid);
    Ok(Json(processes.into_iter().find(|process| process.pid == pid).ok_or_else(missing)?))
}

/// Send a signal to the group of a process
#[utoipa::path(post, path = "/v1/sandboxes/{id}/processes/{pid}/signal", tag = "commands", operation_id = "signal_process",
    params(("id" = String, Path), ("pid" = u32, Path)), request_body = Signalled,
    responses((status = 204, description = "It was sent"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn signal(app: May<Use>, Path((id, pid)): Path<(String, u32)>, Body(body): Body<Signalled>) -> Answer<StatusCode> {
    app.runtime.sandbox(&id).await?.signal(pid, body.signal.parse()?).await?;
    Ok(StatusCode::NO_CONTENT)
}
