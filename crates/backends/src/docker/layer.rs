//! The writable layer of a container, where the engine keeps it.

use std::{
    fs, io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, Timespec, Timestamps, fstat, futimens, openat};
use sandbar_core::{Context, Result};
use sandbar_tree::{copy_tree, measure, remove_tree};

/// The writable layer, in a checkpoint's folder.
pub(super) const LAYER: &str = "layer";
/// Where the agent, its configuration and its socket are inside, relative to the root. The engine makes the mount points in the writable layer.
pub(super) const INSIDE: &str = ".sandbar";

/// Copies a writable layer, in the host's own form, into a checkpoint's folder. Gives bytes and entries.
///
/// # Errors
/// `ResourceExhausted` when the disk is full.
pub(super) fn save(upper: &Path, into: &Path) -> Result<(u64, u64)> {
    let layer = into.join(LAYER);
    fs::DirBuilder::new().mode(0o700).create(&layer).context("checkpoint", || format!("cannot make {}", layer.display()))?;
    let copy = || -> io::Result<(u64, u64)> {
        let into = open(&layer)?;
        let copied = copy_tree(open(upper)?, &into)?;
        Ok((copied.bytes, copied.entries.saturating_sub(without_mount_points(&into)?)))
    };
    copy().context("checkpoint", || "cannot copy the writable layer".to_owned())
}

/// Takes the mount points of the agent out of a copied layer, as if they had never been there. Gives how many entries they were.
fn without_mount_points(layer: &OwnedFd) -> io::Result<u64> {
    let mut taken = 0;
    match openat(layer, INSIDE, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(folder) => taken += 1 + measure(&folder)?.entries,
        Err(rustix::io::Errno::NOENT) => return Ok(0),
        // Whatever it is, it lies where the mount points were.
        Err(_) => taken += 1,
    }
    let root = fstat(layer)?;
    remove_tree(layer, INSIDE)?;
    let time = |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.cast_signed() };
    let (accessed, modified) = (time(root.st_atime, root.st_atime_nsec), time(root.st_mtime, root.st_mtime_nsec));
    futimens(layer, &Timestamps { last_access: accessed, last_modification: modified })?;
    Ok(taken)
}

/// Bytes of a writable layer on disk.
///
/// # Errors
/// Of the file system.
pub(super) fn occupied(upper: &Path) -> Result<u64> {
    let weigh = || Ok(measure(open(upper)?)?.allocated);
    weigh().context("stats", || "cannot weigh the writable layer".to_owned())
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_saved_layer_shows_nothing_of_the_agent() {
        let home = tempfile::tempdir().unwrap();
        let (upper, into) = (home.path().join("upper"), home.path().join("into"));
        fs::create_dir_all(upper.join(".sandbar/run")).unwrap();
        fs::write(upper.join(".sandbar/agent"), "").unwrap();
        fs::write(upper.join("file"), "kept").unwrap();
        fs::create_dir(&into).unwrap();
        let (bytes, entries) = save(&upper, &into).unwrap();
        assert_eq!((bytes, entries), (4, 1));
        let layer = into.join(LAYER);
        assert_eq!(fs::read_dir(&layer).unwrap().count(), 1);
        let time = |path: &Path| fs::metadata(path).map(|found| (found.mtime(), found.mtime_nsec())).unwrap();
        assert_eq!(time(&layer), time(&upper));
    }
}
