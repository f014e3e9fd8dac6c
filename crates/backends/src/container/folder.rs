//! The folder of a generation: the writable layer, prepared, saved, weighed and removed.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};
use sandbar_core::{CheckpointKind, CheckpointOptions, Context, Error, ErrorKind, Result, SandboxStats, SavedCheckpoint};
use sandbar_tree::{copy_tree, measure, remove_tree};
use serde_json::Value;

/// The writable layer, in a generation's folder and in a checkpoint's.
pub(super) const LAYER: &str = "layer";
/// What the overlay works in.
pub(super) const WORK: &str = "work";

const OPERATION: &str = "container folder";

/// Makes the writable layer, unless an earlier boot has, and an empty work folder.
///
/// # Errors
/// `ResourceExhausted` when the disk is full.
pub(super) fn prepare(folder: &Path) -> Result<()> {
    let make = |name: &str, mode: u32| match fs::DirBuilder::new().mode(mode).create(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true).context(OPERATION, || format!("cannot make {}", folder.join(name).display())),
    };
    make(LAYER, 0o755)?;
    if !make(WORK, 0o700)? {
        // What a kernel that went down in the middle left there would be refused.
        remove_tree(open(folder)?, WORK).map_err(|error| tree_error(error, "cannot empty the work folder"))?;
        make(WORK, 0o700)?;
    }
    Ok(())
}

/// Copies a writable layer into a checkpoint's folder.
///
/// # Errors
/// `ResourceExhausted` when the disk is full.
pub(super) fn save(layer: &Path, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
    if options.kind != CheckpointKind::Disk {
        return Err(Error::new(ErrorKind::Unsupported, "checkpoint", "a container saves its disk only"));
    }
    let into = options.into.join(LAYER);
    fs::DirBuilder::new().mode(0o700).create(&into).context("checkpoint", || format!("cannot make {}", into.display()))?;
    let copied =
        copy_tree(open(layer)?, open(&into)?).map_err(|error| tree_error(error, "cannot copy the writable layer").during("checkpoint"))?;
    Ok(SavedCheckpoint { kind: CheckpointKind::Disk, bytes: copied.bytes, files: copied.entries, record: Value::Null })
}

/// Bytes of the writable layer on disk.
///
/// # Errors
/// Of the file system.
pub(super) fn occupied(layer: &Path, mut stats: SandboxStats) -> Result<SandboxStats> {
    stats.disk_bytes = Some(measure(open(layer)?).map_err(|error| tree_error(error, "cannot weigh the writable layer"))?.allocated);
    Ok(stats)
}

/// Removes a folder with everything in it. One that is gone is no error.
///
/// # Errors
/// Of the file system, the first; everything else is removed all the same.
pub(super) fn remove(folder: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(Error::new(ErrorKind::Internal, OPERATION, "a folder without a parent").with("path", folder.display()));
    };
    let parent = match open(parent) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    match remove_tree(parent, name) {
        Err(error) if error.kind() == sandbar_tree::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| tree_error(error, "cannot remove the folder")),
    }
}

pub(super) fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
        .map_err(|errno: Errno| Error::io(OPERATION, format!("cannot open {}", path.display()), errno.into()))
}

fn tree_error(error: sandbar_tree::Error, message: &'static str) -> Error {
    Error::io(OPERATION, message, error.into())
}
