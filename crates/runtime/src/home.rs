//! The state folder.
//!
//! ```text
//! ledger.db, ledger.lock   everything that is known, and the lock of its migrations
//! locks/ID                 one lock per sandbox, for life-cycle verbs
//! sandboxes/ID/            the provider's
//! checkpoints/ID/          layer/, and what the provider adds; .tmp-ID while it is being saved
//! images/                  the image store's
//! keepers/ID.{sock,lock,log}
//! secrets/VAULT            what is kept of sandboxes' secrets: values and keys, for the owner alone; made with the first
//! audit/N.log              what was done, and by whom, in parts
//! agent/                   the provider's: the agent's program, unpacked
//! contexts.{json,lock}     names and keys of other hosts, and the lock of their changes
//! ```

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
};

use rustix::process::geteuid;
use sandbar_core::{CheckpointId, Error, ErrorKind, Result, SandboxId};

/// Paths of the state folder.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    path: PathBuf,
}

impl Home {
    const FOLDERS: [&str; 5] = ["locks", "sandboxes", "checkpoints", "images", "keepers"];

    /// Makes what is missing of it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let home = Self { path: path.to_owned() };
        // The last folder made is there: so are the others. One call on the way of every command.
        if fs::metadata(home.path.join(Self::FOLDERS[4])).is_ok() {
            return Ok(home);
        }
        make(&home.path).map_err(|error| home.unusable(error))?;
        let metadata = fs::metadata(&home.path).map_err(|error| home.unusable(error))?;
        let owner = geteuid().as_raw();
        if metadata.uid() != owner || metadata.mode() & 0o022 != 0 {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "state folder",
                "the folder must belong to this user, and nobody else may write to it",
            )
            .with("path", home.path.display())
            .with("owner", metadata.uid())
            .with("mode", format!("{:o}", metadata.mode() & 0o7777))
            .with_hint("chmod go-w it, or set SANDBAR_HOME to a folder of your own"));
        }
        for folder in Self::FOLDERS {
            make(&home.path.join(folder)).map_err(|error| home.unusable(error))?;
        }
        Ok(home)
    }

    fn unusable(&self, error: io::Error) -> Error {
        let message = match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => "the state folder is on a read-only file system",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the state folder's file system is full",
            io::ErrorKind::PermissionDenied => "this user may not write to the state folder",
            _ => "cannot make the state folder",
        };
        Error::io("state folder", message, error)
            .with("path", self.path.display())
            .with_hint("set SANDBAR_HOME to a folder that can be written")
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        self.path.join("ledger.db")
    }

    /// Made by whoever writes there first.
    pub(crate) fn audit(&self) -> PathBuf {
        self.path.join("audit")
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.path.join("locks")
    }

    pub(crate) fn lock(&self, id: &SandboxId) -> PathBuf {
        self.locks().join(id.as_str())
    }

    pub(crate) fn sandboxes(&self) -> PathBuf {
        self.path.join("sandboxes")
    }

    pub(crate) fn sandbox(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes().join(id.as_str())
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.path.join("checkpoints")
    }

    pub(crate) fn checkpoint(&self, id: &CheckpointId) -> PathBuf {
        self.checkpoints().join(id.as_str())
    }

    pub(crate) fn unfinished_checkpoint(&self, id: &CheckpointId) -> PathBuf {
        self.checkpoints().join(format!(".tmp-{id}"))
    }

    pub(crate) fn vaults(&self) -> PathBuf {
        self.path.join("secrets")
    }

    pub(crate) fn vault(&self, id: &str) -> PathBuf {
        self.vaults().join(id)
    }

    pub(crate) fn keepers(&self) -> PathBuf {
        self.path.join("keepers")
    }

    pub(crate) fn keeper_socket_name(id: &SandboxId) -> String {
        format!("{id}.sock")
    }

    pub(crate) fn keeper_lock(&self, id: &SandboxId) -> PathBuf {
        self.keepers().join(format!("{id}.lock"))
    }

    pub(crate) fn keeper_log(&self, id: &SandboxId) -> PathBuf {
        self.keepers().join(format!("{id}.log"))
    }
}

/// Makes a folder that only its owner may enter, with the missing ones above it.
pub(crate) fn make(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a folder with everything in it; a missing one is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn it_is_made_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(&folder.path().join("a/b")).unwrap();
        for path in [home.path().to_owned(), home.locks(), home.sandboxes(), home.checkpoints(), home.keepers()] {
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o700, "{}", path.display());
        }
    }

    #[test]
    fn a_folder_that_others_write_to_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = Home::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.hint().unwrap().contains("SANDBAR_HOME"));
    }

    #[test]
    fn a_place_where_nothing_can_be_made_is_told_with_the_path() {
        let error = Home::open(Path::new("/proc/sandbar")).unwrap_err();
        assert!(error.to_string().contains("/proc/sandbar"), "{error}");
        assert!(error.hint().is_some());
    }
}
