//! What Firecracker sees of this host's files: its working directory, or in a jail its root.

use std::{
    fs, io,
    os::unix::fs::{chown, symlink},
    path::{Path, PathBuf},
};

use sandbar_core::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::vmm;

const OPERATION: &str = "firecracker";

/// A folder with the files of one machine under short names. They are somewhere else as well, and nothing in here outlives the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Room {
    pub(super) folder: PathBuf,
    /// The user of the jail; `None` without one.
    pub(super) user: Option<u32>,
}

impl Room {
    /// Puts in a file that nobody changes.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn show(&self, file: &Path, name: &str) -> Result<()> {
        let shown = self.put(file, name).and_then(|()| self.user.map_or(Ok(()), |_| vmm::open_to_all(&self.folder.join(name))));
        shown.context(OPERATION, || cannot_show(file))
    }

    /// Puts in a file of this machine alone, which it changes. It must be on the same file system.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn lend(&self, file: &Path, name: &str) -> Result<()> {
        let given = self.user.map_or(Ok(()), |user| chown(file, Some(user), Some(user)));
        given.and_then(|()| self.put(file, name)).context(OPERATION, || cannot_show(file))
    }

    /// Takes such a file away again: it is ours.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn take_back(&self, file: &Path, name: &str) -> Result<()> {
        let taken = fs::remove_file(self.folder.join(name)).and_then(|()| self.user.map_or(Ok(()), |_| chown(file, Some(0), Some(0))));
        taken.context(OPERATION, || format!("cannot keep {}", file.display()))
    }

    fn put(&self, file: &Path, name: &str) -> io::Result<()> {
        let to = self.folder.join(name);
        if self.user.is_none() {
            return symlink(std::path::absolute(file)?, to);
        }
        // No link leads out of a jail.
        match fs::hard_link(file, &to) {
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => vmm::copy(file, &to),
            linked => linked,
        }
    }
}

fn cannot_show(file: &Path) -> String {
    format!("cannot put {} into the machine's folder", file.display())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    #[test]
    fn what_is_shown_can_be_read_and_what_is_lent_is_taken_back() {
        let home = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = home.path().join(name);
            fs::write(&path, name).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            path
        };
        let jailed = rustix::process::geteuid().is_root().then_some(1_234_567);
        for user in [None].into_iter().chain(jailed.map(Some)) {
            let folder = home.path().join(format!("room-{}", user.is_some()));
            fs::create_dir(&folder).unwrap();
            let room = Room { folder: folder.clone(), user };
            let (shown, lent) = (file("shown"), file("lent"));
            room.show(&shown, "disk0").unwrap();
            assert_eq!(fs::read_to_string(folder.join("disk0")).unwrap(), "shown");
            assert_eq!(fs::metadata(&shown).unwrap().mode() & 0o4 != 0, user.is_some());
            room.lend(&lent, "memory").unwrap();
            assert_eq!(fs::metadata(&lent).unwrap().uid(), user.unwrap_or(rustix::process::geteuid().as_raw()));
            fs::write(folder.join("memory"), "written").unwrap();
            room.take_back(&lent, "memory").unwrap();
            assert!(fs::symlink_metadata(folder.join("memory")).is_err());
            assert_eq!(fs::read_to_string(&lent).unwrap(), "written");
            assert_eq!(fs::metadata(&lent).unwrap().uid(), rustix::process::geteuid().as_raw());
            fs::remove_file(&lent).unwrap();
        }
    }
}
