use std::{
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::host;

/// The folder of one run and what its processes share.
pub struct World {
    folder: PathBuf,
    owned: Option<TempDir>,
}

/// Tells a child where the run's folder is.
pub(super) const FOLDER: &str = "SANDBAR_CONFORMANCE_FOLDER";

impl World {
    /// A fresh folder that others may pass through but not list; in a child the one that the parent has made for it.
    pub(super) fn open() -> io::Result<Self> {
        if let Some(folder) = std::env::var_os(FOLDER) {
            return Ok(Self { folder: folder.into(), owned: None });
        }
        let permissions = Permissions::from_mode(0o711);
        let owned = tempfile::Builder::new().prefix("sandbar-conformance-").permissions(permissions).tempdir()?;
        fs::write(owned.path().join("lock"), "")?;
        fs::set_permissions(owned.path().join("lock"), Permissions::from_mode(0o666))?;
        Ok(Self { folder: owned.path().to_owned(), owned: Some(owned) })
    }

    /// A folder of the run, made if missing. `SANDBAR_HOME` of a variant belongs here.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        DirBuilder::new().recursive(true).mode(0o711).create(&path)?;
        Ok(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// The lock that cases share, or have alone.
    pub(super) fn lock(folder: &Path, alone: bool) -> io::Result<File> {
        // A child's folder lies in the parent's, and all of them use the outermost lock.
        let outermost = folder.ancestors().filter(|path| path.join("lock").exists()).last().unwrap_or(folder);
        let file = File::open(outermost.join("lock"))?;
        flock(&file, if alone { FlockOperation::LockExclusive } else { FlockOperation::LockShared })?;
        Ok(file)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Some(owned) = self.owned.take() else { return };
        // Whatever is still mounted in there may be somebody's files: removing the folder would remove those.
        if !host::mounts_of(&self.folder).is_empty() || std::env::var_os("SANDBAR_KEEP").is_some() {
            let _ = owned.keep();
        }
    }
}
