use axum::{Json, extract::State};
use sandbar_runtime::image::ImageSummary;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    extract::Body,
    problem::{Answer, Problem},
    service::App,
};

/// List the images
#[utoipa::path(get, path = "/v1/images", tag = "images", operation_id = "list_images",
    responses((status = 200, body = [ImageSummary]), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(State(app): State<App>) -> Answer<Json<Vec<ImageSummary>>> {
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
pub(crate) async fn pull(State(app): State<App>, Body(pulling): Body<Pulling>) -> Answer<Json<ImageSummary>> {
    Ok(Json(app.runtime.images().pull(&pulling.reference, std::sync::Arc::new(|_| {})).await?))
}
