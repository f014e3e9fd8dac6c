use std::io;

use axum::{
    Json,
    body::Body as Stream,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::IntoResponse,
};
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use sandbar_core::{Error, ErrorKind};
use sandbar_runtime::{ExportOptions, Exported, Imported};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::oneshot,
};
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};
use utoipa::IntoParams;

use crate::{
    caller::{Manage, May, Use},
    extract::{Path, Query},
    problem::{Answer, Problem},
};

/// Bytes between the writer of the file and the connection.
const BUFFER: usize = 256 << 10;

/// The field after the file that says what was written, as JSON.
const EXPORTED: &str = "sandbar-exported";

/// How a checkpoint leaves.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Leaving {
    /// Make image and checkpoint one layer.
    #[serde(default)]
    flatten: bool,
    /// Leave the image's layers out.
    #[serde(default)]
    thin: bool,
    /// Of a checkpoint with memory, take the disk alone.
    #[serde(default)]
    without_memory: bool,
}

/// Read a checkpoint as one file, a tar of an OCI image layout
///
/// A connection that breaks before the end is a failure. Who takes trailers (`TE: trailers`) is told after the file what was written, as JSON in the field `sandbar-exported`: the manifest's
/// digest, bytes and layers, and what was left out.
#[utoipa::path(get, path = "/v1/checkpoints/{checkpoint}/export", tag = "checkpoints", operation_id = "export_checkpoint",
    params(("checkpoint" = String, Path), Leaving),
    responses((status = 200, description = "The file", content_type = "application/x-tar"),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn export(app: May<Use>, Path(checkpoint): Path<String>, Query(leaving): Query<Leaving>) -> Answer<impl IntoResponse> {
    let options = ExportOptions { flatten: leaving.flatten, thin: leaving.thin, without_memory: leaving.without_memory };
    let (reader, writer) = tokio::io::duplex(BUFFER);
    let (wanted, called_off) = oneshot::channel::<()>();
    let writing = tokio::spawn(async move {
        let stop = async {
            let _ = called_off.await;
        };
        app.runtime.export_checkpoint(&checkpoint, options, SyncIoBridge::new(writer), stop).await
    });
    // It is wanted for as long as this is there: a client that goes away takes it along, also before the first byte, for which all layers are packed.
    let writing = async move {
        let written = writing.await;
        drop(wanted);
        written.unwrap_or_else(|error| Err(Error::new(ErrorKind::Internal, "checkpoint export", "a task failed").with_source(error)))
    };
    let mut reader = BufReader::with_capacity(BUFFER, reader);
    let begun = reader.fill_buf().await.is_ok_and(|first| !first.is_empty());
    if !begun {
        // What cannot leave has no first byte, and what can has one.
        let nothing = writing.await.err().unwrap_or_else(|| Error::new(ErrorKind::Internal, "checkpoint export", "the file is empty"));
        return Err(nothing.into());
    }
    let end = stream::once(writing).map(|written| Ok(Frame::trailers(told(&written.map_err(io::Error::other)?)?)));
    let file = ReaderStream::with_capacity(reader, BUFFER).map_ok(Frame::data).chain(end);
    let head = [(header::CONTENT_TYPE, "application/x-tar"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff"), (header::TRAILER, EXPORTED)];
    Ok((head, Stream::new(StreamBody::new(file))).into_response())
}

fn told(exported: &Exported) -> io::Result<HeaderMap> {
    let value = HeaderValue::from_bytes(&serde_json::to_vec(exported)?).map_err(io::Error::other)?;
    Ok(HeaderMap::from_iter([(HeaderName::from_static(EXPORTED), value)]))
}

/// What a checkpoint is called that comes in.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Coming {
    /// Its name; the one that the file claims, if that is free, if it is left out.
    name: Option<String>,
}

/// Take in a checkpoint that was exported
#[utoipa::path(post, path = "/v1/checkpoints/import", tag = "checkpoints", operation_id = "import_checkpoint", params(Coming),
    request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 201, body = Imported), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn import(app: May<Manage>, Query(coming): Query<Coming>, file: Stream) -> Answer<impl IntoResponse> {
    let file = SyncIoBridge::new(StreamReader::new(file.into_data_stream().map_err(io::Error::other)));
    let imported = app.runtime.import_checkpoint(file, coming.name, std::future::pending()).await?;
    Ok((StatusCode::CREATED, Json(imported)))
}
