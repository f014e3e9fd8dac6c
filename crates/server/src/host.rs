use axum::{Json, extract::State};
use sandbar_runtime::Diagnosis;

use crate::{
    problem::{Answer, Problem},
    service::App,
};

/// Tell what the server's host can do for sandboxes: everything is tried, which may take a moment
#[utoipa::path(get, path = "/v1/doctor", tag = "host", operation_id = "doctor",
    responses((status = 200, body = Diagnosis), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn diagnose(State(app): State<App>) -> Answer<Json<Diagnosis>> {
    Ok(Json(app.runtime.diagnose(false).await))
}
