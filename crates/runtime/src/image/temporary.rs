//! Folders for things in the making, which cannot be left behind for good.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::fs::FlockOperation;
use sandbar_core::{Context as _, Result};

use super::{error::tree, lock, paths::Paths};

const OPERATION: &str = "image store";

/// A folder that vanishes with this value, or else with the next [`sweep`].
///
/// Its maker holds a lock on it. A killed maker's lock is let go by the kernel, whichever way it died and whichever
/// PID namespace it lived in, so "the lock is free" is exactly "nobody will finish this".
#[derive(Debug)]
pub(crate) struct TemporaryFolder {
    path: PathBuf,
    _lock: File,
}

impl TemporaryFolder {
    pub(super) fn new(paths: &Paths) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let count = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = paths.temporary().join(format!("{}-{count}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                // Left by a process that had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error).context(OPERATION, || format!("cannot make {}", path.display())),
            }
            // A sweep that came between the two steps has removed it, or is about to.
            let Ok(file) = File::open(&path) else { continue };
            let locked = lock::take(&file, FlockOperation::NonBlockingLockExclusive)
                .context(OPERATION, || format!("cannot lock {}", path.display()))?;
            if locked && lock::is_still(&path, &file) {
                return Ok(Self { path, _lock: file });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What cannot be removed now is removed by a sweep, or is told of there.
        let _ = remove(&self.path);
    }
}

/// Removes the folders whose makers are dead; tells how many.
pub(super) fn sweep(paths: &Paths) -> Result<u64> {
    let mut removed = 0;
    let folder = paths.temporary();
    for entry in fs::read_dir(&folder).context(OPERATION, || format!("cannot list {}", folder.display()))? {
        let path = entry.context(OPERATION, || format!("cannot list {}", folder.display()))?.path();
        let Ok(file) = File::open(&path) else { continue };
        let free =
            lock::take(&file, FlockOperation::NonBlockingLockExclusive).context(OPERATION, || format!("cannot lock {}", path.display()))?;
        if free {
            remove(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes a tree of any shape, unreadable folders included; nothing there is fine.
pub(super) fn remove(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let parent = match File::open(parent) {
        Ok(parent) => parent,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context(OPERATION, || format!("cannot open {}", parent.display())),
    };
    match sandbar_tree::remove_tree(&parent, name) {
        Err(error) if error.kind() == sandbar_tree::ErrorKind::NotFound => Ok(()),
        // Files of a layer may have other owners than this user.
        Err(error) if error.kind() == sandbar_tree::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root() => {
            crate::system::as_layer_owner(|| crate::home::remove(path)).map_err(|error| error.with("path", path.display()))
        }
        Err(error) => Err(tree(OPERATION, format!("cannot remove {}", path.display()), error)),
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Paths) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path().to_owned());
        fs::create_dir(paths.temporary()).unwrap();
        (folder, paths)
    }

    #[test]
    fn a_folder_vanishes_with_its_value_and_is_spared_by_a_sweep_before() {
        let (_folder, paths) = store();
        let folder = TemporaryFolder::new(&paths).unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        assert_eq!(sweep(&paths).unwrap(), 0);
        let path = folder.path().to_owned();
        assert!(path.exists());
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_makers_folder_is_swept() {
        let (_folder, paths) = store();
        fs::create_dir_all(paths.temporary().join("1-0/below")).unwrap();
        assert_eq!(sweep(&paths).unwrap(), 1);
        assert_eq!(fs::read_dir(paths.temporary()).unwrap().count(), 0);
    }
}
