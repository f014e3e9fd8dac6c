use axum::{
    body::Body as Stream,
    http::{StatusCode, header},
    response::IntoResponse,
};
use futures_util::TryStreamExt;
use tokio_util::io::{ReaderStream, StreamReader};

use crate::{
    caller::{May, Use},
    extract::{Path, Query},
    files::{PIECE, Place, Put},
    problem::{Answer, Problem},
};

/// Read a folder with everything in it, as a tar stream
///
/// A stream that ends without the two blocks of zeros that end a tar was cut off.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/tree", tag = "files", operation_id = "read_tree", params(("id" = String, Path), Place),
    responses((status = 200, description = "The folder", content_type = "application/x-tar"),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(app: May<Use>, Path(id): Path<String>, Query(place): Query<Place>) -> Answer<impl IntoResponse> {
    let tar = app.runtime.sandbox(&id).await?.get_dir(&place.path).await?;
    let stream = Stream::from_stream(ReaderStream::with_capacity(tar, PIECE));
    Ok(([(header::CONTENT_TYPE, "application/x-tar"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")], stream))
}

/// Unpack a tar stream into a folder
#[utoipa::path(put, path = "/v1/sandboxes/{id}/tree", tag = "files", operation_id = "write_tree", params(("id" = String, Path), Put),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 204, description = "It is unpacked"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn write(app: May<Use>, Path(id): Path<String>, Query(put): Query<Put>, content: Stream) -> Answer<StatusCode> {
    let options = put.options()?;
    let mut tar = StreamReader::new(content.into_data_stream().map_err(std::io::Error::other));
    app.runtime.sandbox(&id).await?.put_dir(&put.path, options, &mut tar).await?;
    Ok(StatusCode::NO_CONTENT)
}
