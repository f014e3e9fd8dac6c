use axum::{Json, http::StatusCode};
use sandbar_core::{Error, ErrorKind, Network};
use sandbar_runtime::NetworkRecord;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::{
    caller::{Manage, May, Read},
    extract::{Body, Path, Query},
    problem::{Answer, Problem},
};

/// What a sandbox may reach.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Reach {
    /// `none`, `open`, or rules such as `allow=example.com:443`.
    #[schema(value_type = String)]
    network: Network,
}

/// Change what a running sandbox may reach
///
/// Holds at once: connections that are not allowed any more are cut. It must have been made with a network.
#[utoipa::path(put, path = "/v1/sandboxes/{id}/network", tag = "network", operation_id = "set_network", params(("id" = String, Path)),
    request_body = Reach,
    responses((status = 204, description = "That holds"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn set(app: May<Manage>, Path(id): Path<String>, Body(reach): Body<Reach>) -> Answer<StatusCode> {
    app.runtime.sandbox(&id).await?.set_network(reach.network).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which part of the log is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Decisions of this moment, Unix milliseconds, and later.
    #[serde(default)]
    since_ms: u64,
}

/// Tell what was decided about a sandbox's names and connections
///
/// The oldest first; the newest four to eight MiB are kept. What comes is told by `/v1/events`.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/network/log", tag = "network", operation_id = "network_log", params(("id" = String, Path), Wanted),
    responses((status = 200, body = [NetworkRecord]), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn log(app: May<Read>, Path(id): Path<String>, Query(wanted): Query<Wanted>) -> Answer<Json<Vec<NetworkRecord>>> {
    let mut log = app.runtime.sandbox(&id).await?.network_log()?;
    let read = tokio::task::spawn_blocking(move || log.read()).await;
    let mut records = read.map_err(|error| Error::new(ErrorKind::Internal, "network log", "a task failed").with_source(error))??;
    records.retain(|record| record.time_ms >= wanted.since_ms);
    Ok(Json(records))
}
