use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Result;

/// What a path is.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, fifo or socket.
    Other,
}

/// What is known of a path.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// What it is.
    pub kind: FileKind,
    /// Bytes.
    pub size: u64,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner, as numbered inside the sandbox.
    pub uid: u32,
    /// Group, as numbered inside the sandbox.
    pub gid: u32,
    /// Unix nanoseconds of the last change of the content.
    pub modified_ns: i64,
    /// Where a symbolic link points.
    pub symlink_target: Option<String>,
}

/// One entry of a directory. Names that are not UTF-8 are shown with replacement characters.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirEntry {
    /// The name, without the directory.
    pub name: String,
    /// What is known of it; symbolic links are not followed.
    #[serde(flatten)]
    pub stat: FileStat,
}

/// How a file or tree is put.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Permission bits; `0o644` for a new file and unchanged for an old one when `None`.
    pub mode: Option<u32>,
    /// Owner and group; the sandbox's user when `None`.
    pub owner: Option<(u32, u32)>,
    /// Make missing parent directories.
    pub make_parents: bool,
    /// Refuse with `AlreadyExists` instead of replacing.
    pub no_replace: bool,
}

/// How a path is removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// A directory with everything in it; symbolic links are removed, never followed.
    pub recursive: bool,
    /// A missing path is no error.
    pub missing_ok: bool,
}

/// What happened to a path under watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchEventKind {
    /// Made, or moved here.
    Created,
    /// Content changed.
    Modified,
    /// Removed, or moved away.
    Removed,
    /// Mode, owner or times changed.
    Attributes,
    /// Events were lost: the kernel's queue was full. Look at the tree anew.
    Overflow,
}

/// One event of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchEventKind,
    /// The path, relative to the watched one; empty for the watched path itself.
    pub path: String,
    /// What it is, when known.
    pub is_directory: bool,
}

/// Events of a watch; dropping it ends the watch.
#[async_trait]
pub trait WatchStream: Send {
    /// The next event; `None` when the watched path is gone.
    ///
    /// # Errors
    /// `Unavailable` when the connection is gone.
    async fn next(&mut self) -> Result<Option<WatchEvent>>;
}
