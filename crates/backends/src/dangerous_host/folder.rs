use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use sandbar_core::{CheckpointKind, CheckpointOptions, Context, Error, ErrorKind, Result, SavedCheckpoint};
use serde_json::json;

/// The workspace, in a generation's folder and in a checkpoint's.
pub(super) const LAYER: &str = "layer";

/// Saves the whole workspace. Blocks.
pub(super) fn save(folder: &Path, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
    if options.kind != CheckpointKind::Disk {
        return Err(Error::new(ErrorKind::Unsupported, "checkpoint", "dangerous-host does not save memory"));
    }
    let layer = options.into.join(LAYER);
    fs::DirBuilder::new().mode(0o755).create(&layer).context("checkpoint", || format!("cannot make {}", layer.display()))?;
    copy_into(&folder.join(LAYER), &layer)?;
    let measured = sandbar_tree::measure(open(&layer)?).map_err(|error| failed("checkpoint", error))?;
    // Unlike an overlay's layer it holds everything, and does not need those of its parents.
    let record = json!({ "complete": true });
    Ok(SavedCheckpoint { kind: options.kind, bytes: measured.allocated, files: measured.entries, record })
}

/// Copies a workspace into an empty folder. Blocks.
pub(super) fn copy_into(from: &Path, to: &Path) -> Result<()> {
    sandbar_tree::copy_tree(open(from)?, open(to)?).map(drop).map_err(|error| failed("copy", error).with("from", from.display()))
}

/// Bytes that the workspace occupies. Blocks.
pub(super) fn occupied(folder: &Path) -> Result<u64> {
    Ok(sandbar_tree::measure(open(&folder.join(LAYER))?).map_err(|error| failed("measure", error))?.allocated)
}

/// Removes a folder with everything in it; one that is gone is no error. Blocks.
pub(super) fn remove(folder: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(Error::new(ErrorKind::InvalidInput, "remove", "not the path of a folder in another").with("path", folder.display()));
    };
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        _ => {}
    }
    match sandbar_tree::remove_tree(open(parent)?, name) {
        // Somebody else was quicker.
        Err(error) if error.kind() == sandbar_tree::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| failed("remove", error).with("folder", folder.display())),
    }
}

fn open(folder: &Path) -> Result<OwnedFd> {
    openat(CWD, folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .context("open", || format!("cannot open {}", folder.display()))
}

fn failed(operation: &'static str, error: sandbar_tree::Error) -> Error {
    let kind = match error.kind() {
        sandbar_tree::ErrorKind::NotFound => ErrorKind::NotFound,
        sandbar_tree::ErrorKind::PermissionDenied | sandbar_tree::ErrorKind::ReadOnly => ErrorKind::PermissionDenied,
        sandbar_tree::ErrorKind::NoSpace | sandbar_tree::ErrorKind::LimitExceeded => ErrorKind::ResourceExhausted,
        sandbar_tree::ErrorKind::Busy | sandbar_tree::ErrorKind::Changed => ErrorKind::Conflict,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, operation, "work on the workspace's files failed").with_source(error)
}
