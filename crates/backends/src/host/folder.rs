//! The folder of a generation: the writable layer, prepared, saved, weighed and removed.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::Errno,
};
use sandbar_core::{Context, Error, ErrorKind, Journal, Resource, Result};
use sandbar_tree::{copy_tree, measure, remove_tree};

use super::{
    disk,
    helper::as_sandbox_root,
    ids::{Ids, is_root},
    lingering, worker,
};

/// The writable layer, in a generation's folder and in a checkpoint's.
pub(crate) const LAYER: &str = "layer";
/// What the overlay works in.
pub(crate) const WORK: &str = "work";

const OPERATION: &str = "sandbox folder";

/// Makes the writable layer, unless an earlier boot has, and an empty work folder.
///
/// # Errors
/// `ResourceExhausted` when the disk is full.
pub(crate) fn prepare(folder: &Path) -> Result<()> {
    let make = |name: &str, mode: u32| match fs::DirBuilder::new().mode(mode).create(folder.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        made => made.map(|()| true).context(OPERATION, || format!("cannot make {}", folder.join(name).display())),
    };
    make(LAYER, 0o755)?;
    if !make(WORK, 0o700)? {
        // What a kernel that went down in the middle left there would be refused.
        remove(&folder.join(WORK))?;
        make(WORK, 0o700)?;
    }
    Ok(())
}

/// Copies the writable layer of a generation into a checkpoint's folder; gives its bytes and files. `is_running` says that its disk, if it has
/// one, is mounted.
///
/// # Errors
/// `ResourceExhausted` when the disk is full.
pub(crate) fn save(folder: &Path, is_running: bool, into: &Path) -> Result<(u64, u64)> {
    let into = into.join(LAYER);
    fs::DirBuilder::new().mode(0o700).create(&into).context("checkpoint", || format!("cannot make {}", into.display()))?;
    let image = disk::image(folder);
    let (bytes, files) = if let Some(image) = &image {
        copy(disk::layer(image)?, &into).context("checkpoint", || CANNOT_COPY.to_owned())?
    } else {
        let layer = folder.join(LAYER);
        let copied = move || copy(open(&layer).map_err(io::Error::other)?, &into);
        // Files of the sandbox's other users can be read, and copied with their owners, in its user namespace only.
        if is_root() {
            copied().context("checkpoint", || CANNOT_COPY.to_owned())?
        } else {
            as_sandbox_root(&Ids::of_sandbox(None)?, copied)?
        }
    };
    if let Some(image) = image.filter(|_| !is_running) {
        disk::detach(&image)?;
    }
    Ok((bytes, files))
}

const CANNOT_COPY: &str = "cannot copy the writable layer";

fn copy(from: OwnedFd, into: &Path) -> io::Result<(u64, u64)> {
    let copied = copy_tree(from, open(into).map_err(io::Error::other)?)?;
    Ok((copied.bytes, copied.entries))
}

/// Bytes of the writable layer on disk.
///
/// # Errors
/// Of the file system.
pub(crate) fn occupied(folder: &Path) -> Result<u64> {
    let cannot = || "cannot weigh the writable layer".to_owned();
    if let Some(image) = disk::image(folder) {
        return disk::occupied(&image).context(OPERATION, cannot);
    }
    let layer = folder.join(LAYER);
    let weigh = move || Ok(measure(open(&layer).map_err(io::Error::other)?)?.allocated);
    match weigh() {
        Err(error) if may_need_ids(&error) => as_sandbox_root(&Ids::of_sandbox(None)?, weigh),
        weighed => weighed.context(OPERATION, cannot),
    }
}

/// Removes a folder with everything in it. One that is gone is no error.
///
/// # Errors
/// Of the file system, the first; everything else is removed all the same.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(Error::new(ErrorKind::Internal, OPERATION, "a folder without a parent").with("path", folder.display()));
    };
    let remove = || match open(parent) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::other(error)),
        Ok(parent) => match remove_tree(parent, name) {
            Err(error) if error.kind() == sandbar_tree::ErrorKind::NotFound => Ok(()),
            removed => Ok(removed?),
        },
    };
    match remove() {
        Err(error) if may_need_ids(&error) => as_sandbox_root(&Ids::of_sandbox(None)?, remove),
        removed => removed.context(OPERATION, || format!("cannot remove {}", folder.display())),
    }
}

/// Removes the folder of a generation that has ended, and then has the journal forget it.
///
/// # Errors
/// As [`remove`], or of the journal.
pub(crate) async fn remove_told(path: PathBuf, journal: Arc<dyn Journal>) -> Result<()> {
    worker::run_and_drop(move || (remove_and_forget(&path, &journal), lingering::take(&path))).await?
}

/// The same, at once.
///
/// # Errors
/// As [`remove_told`].
pub(crate) fn remove_and_forget(path: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
    remove(path)?;
    journal.forget(&Resource::Folder { path: path.to_owned() })
}

/// Whether a plain user failed at files of the sandbox's other users.
fn may_need_ids(error: &io::Error) -> bool {
    !is_root() && error.kind() == io::ErrorKind::PermissionDenied
}

pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty())
        .map_err(|errno: Errno| Error::io(OPERATION, format!("cannot open {}", path.display()), errno.into()))
}
