use std::io;

use axum::{Json, body::Body as Stream, http::StatusCode, response::IntoResponse};
use futures_util::TryStreamExt;
use sandbar_runtime::image::{ImageSummary, Removed};
use serde::Deserialize;
use tokio_util::io::StreamReader;
use utoipa::{IntoParams, ToSchema};

use crate::{
    caller::{Admin, May, Read},
    extract::{Body, Path, Query},
    problem::{Answer, Problem},
};

/// List the images
#[utoipa::path(get, path = "/v1/images", tag = "images", operation_id = "list_images",
    responses((status = 200, body = [ImageSummary]), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(app: May<Read>) -> Answer<Json<Vec<ImageSummary>>> {
    Ok(Json(app.runtime.images().list().await?))
}

/// An image in a registry.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pulling {
    /// REGISTRY/REPOSITORY[:TAG][@DIGEST].
    reference: String,
}

/// Fetch an image from a registry
#[utoipa::path(post, path = "/v1/images/pull", tag = "images", operation_id = "pull_image", request_body = Pulling,
    responses((status = 200, body = ImageSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn pull(app: May<Admin>, Body(pulling): Body<Pulling>) -> Answer<Json<ImageSummary>> {
    Ok(Json(app.runtime.pull_image(&pulling.reference, std::sync::Arc::new(|_| {})).await?))
}

/// What an image is called that comes in.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Coming {
    /// Its name, which is taken from another image that has it; those that the archive claims, as far as they are free, if it is left out.
    name: Option<String>,
    /// Which one, where the archive holds several.
    tag: Option<String>,
}

/// Take in an image
///
/// A tar (plain, gzip or zstd) of a file system, of an OCI layout, or of `docker save`, as it arrives.
#[utoipa::path(post, path = "/v1/images/import", tag = "images", operation_id = "import_image", params(Coming),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 201, body = ImageSummary), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn import(app: May<Admin>, Query(coming): Query<Coming>, archive: Stream) -> Answer<impl IntoResponse> {
    let mut archive = StreamReader::new(archive.into_data_stream().map_err(io::Error::other));
    let image = app.runtime.receive_image(&mut archive, coming.tag.as_deref(), coming.name.as_deref()).await?;
    Ok((StatusCode::CREATED, Json(image)))
}

/// Remove an image, or a name of it
///
/// What sandboxes and checkpoints need of it stays as long as they do.
#[utoipa::path(delete, path = "/v1/images/{reference}", tag = "images", operation_id = "remove_image",
    params(("reference" = String, Path, description = "A name (with `/` as `%2F`), an id, or the beginning of an id")),
    responses((status = 200, body = Removed), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn remove(app: May<Admin>, Path(reference): Path<String>) -> Answer<Json<Removed>> {
    Ok(Json(app.runtime.remove_image(&reference).await?))
}
