use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use sandbar_core::{Context as _, Result};

/// Before the names of what is not finished.
const PREFIX: &str = ".new-";

/// A folder that becomes something only when it is renamed. It is locked while its maker lives, so that what a killed one left can be told
/// from what is being made.
pub(crate) struct Staging {
    path: PathBuf,
    _lock: File,
}

impl Staging {
    /// A new folder in `parent`, which is made if missing. Removes what killed processes left there.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(parent).context("guest", || format!("cannot make {}", parent.display()))?;
        sweep(parent);
        let make = || {
            let mut random = [0; 8];
            getrandom::fill(&mut random)?;
            let path = parent.join(format!("{PREFIX}{:016x}", u64::from_ne_bytes(random)));
            DirBuilder::new().mode(0o700).create(&path)?;
            let lock = File::open(&path)?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            io::Result::Ok(Self { path, _lock: lock })
        };
        make().context("guest", || format!("cannot make a folder in {}", parent.display()))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Renamed: then it is something by now.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what nobody holds any more.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(folder) = File::open(entry.path())
            && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
