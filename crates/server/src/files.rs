use axum::{
    Json,
    body::Body as Stream,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::TryStreamExt;
use sandbar_core::{DirEntry, Error, ErrorKind, FileKind, FileStat, PutOptions, RemoveOptions, Result};
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio_util::io::{ReaderStream, StreamReader};
use utoipa::{IntoParams, ToSchema};

use crate::{
    caller::{May, Use},
    extract::{Body, Path, Query},
    problem::{Answer, Problem},
};

/// Bytes of a piece of a stream.
pub(crate) const PIECE: usize = 64 << 10;

/// A path inside.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    /// The path inside; relative ones begin at the working directory.
    pub(crate) path: String,
}

/// What is told of a path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Look {
    /// The path inside.
    path: String,
    /// Whether a symbolic link stands for what it points to.
    #[serde(default)]
    follow: bool,
}

/// How a file, or a folder's content, is put.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Put {
    /// The path inside.
    pub(crate) path: String,
    /// Permission bits, octal: `644`.
    mode: Option<String>,
    /// Owner and group: UID:GID.
    owner: Option<String>,
    /// Make missing folders above it.
    #[serde(default)]
    parents: bool,
    /// Fail where it is there already.
    #[serde(default)]
    no_replace: bool,
}

impl Put {
    pub(crate) fn options(&self) -> Result<PutOptions> {
        let bad =
            |message: &'static str, value: &str| Error::new(ErrorKind::InvalidInput, "put", message).with("value", format!("{value:?}"));
        let owner = |text: &String| {
            let ids = text.split_once(':').and_then(|(uid, gid)| Some((uid.parse().ok()?, gid.parse().ok()?)));
            ids.ok_or_else(|| bad("an owner is UID:GID", text))
        };
        Ok(PutOptions {
            mode: self.mode.as_ref().map(mode).transpose()?,
            owner: self.owner.as_ref().map(owner).transpose()?,
            make_parents: self.parents,
            no_replace: self.no_replace,
        })
    }
}

fn mode(text: &String) -> Result<u32> {
    let bad = || Error::new(ErrorKind::InvalidInput, "put", "a mode is octal, 7777 at most").with("value", format!("{text:?}"));
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777).ok_or_else(bad)
}

/// Read a file
///
/// Takes a `Range` of bytes.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files", tag = "files", operation_id = "read_file", params(("id" = String, Path), Place),
    responses((status = 200, description = "The file", content_type = "application/octet-stream"),
        (status = 206, description = "The range", content_type = "application/octet-stream"),
        (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn read(app: May<Use>, Path(id): Path<String>, Query(place): Query<Place>, headers: HeaderMap) -> Answer<Response> {
    let sandbox = app.runtime.sandbox(&id).await?;
    let size = sandbox.stat(&place.path, true).await?;
    if size.kind != FileKind::File {
        return Err(Error::new(ErrorKind::InvalidInput, "get", "not a regular file").with("path", &place.path).into());
    }
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).and_then(|range| Range::parse(range, size.size));
    let first = match range {
        None => 0,
        Some(Range::Within(first, _)) => first,
        Some(Range::Outside) => return Ok(outside(size.size)),
    };
    let (found, content) = sandbox.get_file(&place.path, first).await?;
    // What it has become since it was looked at: never more is promised than there is.
    let end = match range.map(|range| range.of(found.size)) {
        None => found.size,
        Some(Range::Within(_, end)) => end,
        Some(Range::Outside) => return Ok(outside(found.size)),
    };
    // What a kernel makes up while it is read (`/proc`) says that it has no size, and has no end that could be promised.
    let length = (range.is_some() || found.size > 0).then_some(end - first);
    let stream = Stream::from_stream(ReaderStream::with_capacity(content.take(length.unwrap_or(u64::MAX)), PIECE));
    let mut response = stream.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    // What a sandbox wrote is shown by no browser as a page of this server.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    if range.is_some()
        && let Ok(told) = HeaderValue::from_str(&format!("bytes {first}-{}/{}", end - 1, found.size))
    {
        headers.insert(header::CONTENT_RANGE, told);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// Says that a file of this size has no such bytes.
fn outside(size: u64) -> Response {
    let problem = Problem::with_status(StatusCode::RANGE_NOT_SATISFIABLE, "invalid_input", "the file has no such range");
    ([(header::CONTENT_RANGE, format!("bytes */{size}"))], problem).into_response()
}

/// A range of a file's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Range {
    /// From the first up to, and without, the second.
    Within(u64, u64),
    /// The file has no such bytes.
    Outside,
}

impl Range {
    /// One range of bytes. `None` for what is to be ignored (RFC 9110, 14.2): other units, several ranges, nonsense.
    fn parse(text: &str, size: u64) -> Option<Self> {
        let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
        let (first, end) = match (first.is_empty(), last.is_empty()) {
            (true, true) => return None,
            (true, false) => (size.saturating_sub(last.parse().ok()?), size),
            (false, true) => (first.parse().ok()?, size),
            (false, false) => {
                let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
                if last < first {
                    return None;
                }
                (first, last.saturating_add(1).min(size))
            }
        };
        Some(if first < end { Self::Within(first, end) } else { Self::Outside })
    }

    /// What is there of it when the file has this size.
    fn of(self, size: u64) -> Self {
        match self {
            Self::Within(first, end) if first < size => Self::Within(first, end.min(size)),
            _ => Self::Outside,
        }
    }
}

/// Write a file
#[utoipa::path(put, path = "/v1/sandboxes/{id}/files", tag = "files", operation_id = "write_file", params(("id" = String, Path), Put),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "It is written"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn write(app: May<Use>, Path(id): Path<String>, Query(put): Query<Put>, content: Stream) -> Answer<StatusCode> {
    let options = put.options()?;
    let mut content = StreamReader::new(content.into_data_stream().map_err(std::io::Error::other));
    app.runtime.sandbox(&id).await?.put_file(&put.path, options, &mut content).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How a path is removed.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Removal {
    /// The path inside.
    path: String,
    /// A folder with everything in it.
    #[serde(default)]
    recursive: bool,
    /// A missing path is no error.
    #[serde(default)]
    missing_ok: bool,
}

/// Remove a path
#[utoipa::path(delete, path = "/v1/sandboxes/{id}/files", tag = "files", operation_id = "remove_path", params(("id" = String, Path), Removal),
    responses((status = 204, description = "It is gone"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn remove(app: May<Use>, Path(id): Path<String>, Query(removal): Query<Removal>) -> Answer<StatusCode> {
    let options = RemoveOptions { recursive: removal.recursive, missing_ok: removal.missing_ok };
    app.runtime.sandbox(&id).await?.remove_path(&removal.path, options).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tell what a path is
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/stat", tag = "files", operation_id = "stat_path", params(("id" = String, Path), Look),
    responses((status = 200, body = FileStat), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn stat(app: May<Use>, Path(id): Path<String>, Query(look): Query<Look>) -> Answer<Json<FileStat>> {
    Ok(Json(app.runtime.sandbox(&id).await?.stat(&look.path, look.follow).await?))
}

/// List a folder
#[utoipa::path(get, path = "/v1/sandboxes/{id}/files/list", tag = "files", operation_id = "list_folder", params(("id" = String, Path), Place),
    responses((status = 200, body = [DirEntry]), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn list(app: May<Use>, Path(id): Path<String>, Query(place): Query<Place>) -> Answer<Json<Vec<DirEntry>>> {
    Ok(Json(app.runtime.sandbox(&id).await?.read_dir(&place.path).await?))
}

/// A folder to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Folder {
    /// The path inside.
    path: String,
    /// Make missing folders above it too; one that is there is no error then.
    #[serde(default)]
    parents: bool,
    /// Permission bits, octal.
    mode: Option<String>,
}

/// Make a folder
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/mkdir", tag = "files", operation_id = "make_folder", params(("id" = String, Path)),
    request_body = Folder,
    responses((status = 204, description = "It is there"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn make_folder(app: May<Use>, Path(id): Path<String>, Body(folder): Body<Folder>) -> Answer<StatusCode> {
    let mode = folder.mode.as_ref().map(mode).transpose()?;
    app.runtime.sandbox(&id).await?.make_dir(&folder.path, folder.parents, mode).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A new name.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Renaming {
    /// The path inside.
    from: String,
    /// The new one.
    to: String,
    /// Fail where the new one is there already.
    #[serde(default)]
    no_replace: bool,
}

/// Rename a path
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/rename", tag = "files", operation_id = "rename_path", params(("id" = String, Path)),
    request_body = Renaming,
    responses((status = 204, description = "It is renamed"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn rename(app: May<Use>, Path(id): Path<String>, Body(renaming): Body<Renaming>) -> Answer<StatusCode> {
    app.runtime.sandbox(&id).await?.rename(&renaming.from, &renaming.to, renaming.no_replace).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A symbolic link.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Link {
    /// What it points to, as it is.
    target: String,
    /// Its own path.
    path: String,
}

/// Make a symbolic link
#[utoipa::path(post, path = "/v1/sandboxes/{id}/files/symlink", tag = "files", operation_id = "make_link", params(("id" = String, Path)),
    request_body = Link,
    responses((status = 204, description = "It is there"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn link(app: May<Use>, Path(id): Path<String>, Body(link): Body<Link>) -> Answer<StatusCode> {
    app.runtime.sandbox(&id).await?.symlink(&link.target, &link.path).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_standard() {
        for (text, range) in [
            ("bytes=0-0", Some(Range::Within(0, 1))),
            ("bytes=5-", Some(Range::Within(5, 10))),
            ("bytes=-3", Some(Range::Within(7, 10))),
            ("bytes=-30", Some(Range::Within(0, 10))),
            ("bytes=2-99", Some(Range::Within(2, 10))),
            ("bytes=10-", Some(Range::Outside)),
            ("bytes=-0", Some(Range::Outside)),
            ("bytes=99999999999999999999-", None),
            ("bytes=4-2", None),
            ("bytes=-", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
        ] {
            assert_eq!(Range::parse(text, 10), range, "{text}");
        }
    }

    #[test]
    fn of_a_file_that_has_shrunk_no_more_is_told_than_there_is() {
        for (size, range) in [(300, Range::Within(100, 200)), (150, Range::Within(100, 150)), (101, Range::Within(100, 101))] {
            assert_eq!(Range::Within(100, 200).of(size), range, "{size}");
        }
        for size in [100, 50, 0] {
            assert_eq!(Range::Within(100, 200).of(size), Range::Outside, "{size}");
        }
    }
}
