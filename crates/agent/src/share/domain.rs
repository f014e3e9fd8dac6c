use std::{io, os::fd::AsFd};

use landlock::{ABI, Access, AccessFs, PathBeneath, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope};

/// The newest version whose rights are known here; an older kernel refuses what it knows.
const NEWEST: ABI = ABI::V6;

/// Shuts this thread in with the volume, by Landlock: a second wall, should a guest's kernel ever have the server lose its way. What is beneath the root, or
/// the root where it is a file, may be used as before; nothing else can be opened, made, moved or removed. Where the kernel has no Landlock, nothing changes.
///
/// # Errors
/// Of a kernel that has it and refuses.
pub(super) fn enter(root: impl AsFd) -> io::Result<()> {
    let all = AccessFs::from_all(NEWEST);
    let entered = Ruleset::default()
        .handle_access(all)
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rule(PathBeneath::new(root, all)))
        .and_then(|ruleset| ruleset.restrict_self());
    entered.map(drop).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::ErrorKind,
        thread,
    };

    use super::*;

    /// Landlock shuts in a thread, and the tests' other ones stay outside.
    fn within(root: File, work: impl FnOnce() + Send + 'static) {
        let inside = move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            enter(&root).unwrap();
            work();
        };
        thread::spawn(inside).join().unwrap();
    }

    #[test]
    fn nothing_outside_of_a_volume_can_be_touched() {
        let (volume, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let secret = other.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        let (path, outside) = (volume.path().to_owned(), other.path().to_owned());
        within(File::open(volume.path()).unwrap(), move || {
            let denied = |done: io::Result<()>| assert_eq!(done.unwrap_err().kind(), ErrorKind::PermissionDenied);
            denied(fs::read(&secret).map(drop));
            denied(fs::write(outside.join("new"), "x"));
            denied(fs::create_dir(outside.join("folder")));
            denied(fs::remove_file(&secret));
            denied(fs::read_dir("/").map(drop));
            fs::write(path.join("own"), "x").unwrap();
            fs::create_dir(path.join("folder")).unwrap();
            fs::rename(path.join("own"), path.join("folder/moved")).unwrap();
            assert!(fs::rename(path.join("folder/moved"), outside.join("moved")).is_err());
            assert_eq!(fs::read(path.join("folder/moved")).unwrap(), b"x");
        });
        assert_eq!(fs::read(other.path().join("secret")).unwrap(), b"secret");
    }

    #[test]
    fn a_file_can_be_all_that_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let (file, beside) = (folder.path().join("file"), folder.path().join("beside"));
        fs::write(&file, "x").unwrap();
        fs::write(&beside, "x").unwrap();
        within(File::open(&file).unwrap(), move || {
            fs::write(&file, "changed").unwrap();
            assert_eq!(fs::read(&beside).unwrap_err().kind(), ErrorKind::PermissionDenied);
        });
    }
}
