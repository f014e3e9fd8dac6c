use std::io;

use axum::{Json, body::Body as Stream, http::StatusCode, response::IntoResponse};
use futures_util::TryStreamExt;
use sandbar_runtime::KernelSummary;
use serde::Deserialize;
use tokio_util::io::StreamReader;
use utoipa::IntoParams;

use crate::{
    caller::{Admin, May, Read},
    extract::{Path, Query},
    problem::{Answer, Problem},
};

/// List the kernels that virtual machines boot, the one that is booted last
#[utoipa::path(get, path = "/v1/kernels", tag = "kernels", operation_id = "list_kernels",
    responses((status = 200, body = [KernelSummary]), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(app: May<Read>) -> Answer<Json<Vec<KernelSummary>>> {
    Ok(Json(app.runtime.kernels().list()?))
}

/// What a kernel is called that comes in.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Coming {
    /// Its name; its release if it is left out.
    name: Option<String>,
}

/// Take in a kernel
///
/// A vmlinuz or an ELF vmlinux with everything built in, or a Debian package, as it arrives.
#[utoipa::path(post, path = "/v1/kernels/import", tag = "kernels", operation_id = "import_kernel", params(Coming),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = KernelSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn import(app: May<Admin>, Query(coming): Query<Coming>, kernel: Stream) -> Answer<impl IntoResponse> {
    let mut kernel = StreamReader::new(kernel.into_data_stream().map_err(io::Error::other));
    Ok((StatusCode::CREATED, Json(app.runtime.receive_kernel(&mut kernel, coming.name).await?)))
}

/// Remove a kernel; machines that run keep theirs
#[utoipa::path(delete, path = "/v1/kernels/{name}", tag = "kernels", operation_id = "remove_kernel", params(("name" = String, Path)),
    responses((status = 204, description = "It is gone"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn remove(app: May<Admin>, Path(name): Path<String>) -> Answer<StatusCode> {
    app.runtime.remove_kernel(&name)?;
    Ok(StatusCode::NO_CONTENT)
}
