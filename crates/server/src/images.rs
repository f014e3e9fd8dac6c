use axum::Json;
use sandbar_runtime::image::ImageSummary;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::{
    caller::{Admin, May, Read},
    extract::Body,
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
