use axum::Json;
use sandbar_runtime::{AuditFilter, AuditPlace, AuditRecord};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    caller::{Admin, May},
    extract::Query,
    page::limit,
    problem::{Answer, Problem},
};

/// Which part of the audit log is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// At most this many lines: 1 to 1000, 100 if it is left out.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Lines of this moment, Unix milliseconds, and later.
    #[serde(default)]
    since_ms: u64,
    /// Those of the sandbox with this id, or name, or with an id that begins like this. It may be gone.
    sandbox: Option<String>,
}

/// A part of the audit log, the oldest lines first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Lines {
    items: Vec<AuditRecord>,
    /// Where what comes after these lines begins. With nothing new there yet, the page is empty, and may be asked for again.
    next_cursor: String,
}

/// Tell what was done to sandboxes, by whom, and what became of it
///
/// By servers, commands and programs on this state folder; also what was refused. There are no arguments, variables and contents in it.
#[utoipa::path(get, path = "/v1/audit", tag = "host", operation_id = "audit", params(Wanted),
    responses((status = 200, body = Lines), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(app: May<Admin>, Query(wanted): Query<Wanted>) -> Answer<Json<Lines>> {
    let from: AuditPlace = wanted.cursor.as_deref().map_or(Ok(AuditPlace::default()), str::parse)?;
    let most = limit(wanted.limit)?;
    let filter = AuditFilter { since_ms: wanted.since_ms, sandbox: wanted.sandbox };
    let log = app.runtime.audit_log();
    // Up to 32 MiB are looked through.
    let (items, place) = tokio::task::spawn_blocking(move || log.read(from, most, &filter))
        .await
        .map_err(|error| sandbar_core::Error::new(sandbar_core::ErrorKind::Internal, "audit", "a task failed").with_source(error))??;
    Ok(Json(Lines { items, next_cursor: place.to_string() }))
}
