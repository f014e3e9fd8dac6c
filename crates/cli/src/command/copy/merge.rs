use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use sandbar_core::{Context, Error, ErrorKind, Result};

/// A new folder beside a destination, on the same file system, that is gone with this value.
pub(super) struct Staging {
    path: PathBuf,
}

impl Staging {
    /// A new empty folder in `directory`, mode 0700.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let random = random()?;
        let path = directory.join(format!(".sandbar-{random:016x}"));
        fs::DirBuilder::new().mode(0o700).create(&path).context("cp", || format!("cannot write to {}", directory.display()))?;
        Ok(Self { path })
    }

    /// A path in it.
    pub(super) fn entry(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What was unpacked may have directories that their owner may not enter.
        if let Ok(directory) = fs::File::open(&self.path) {
            let _ = sandbar_tree::remove_contents(&directory);
        }
        let _ = fs::remove_dir(&self.path);
    }
}

fn random() -> Result<u64> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::from).context("cp", || "no random numbers".to_owned())?;
    Ok(u64::from_ne_bytes(random))
}

/// Moves `from` to `to`, which are on one file system: a directory onto a directory is merged, anything else replaces what is no directory.
///
/// Links at the destination are never followed. A directory never takes the place of something else, nor the reverse: what came
/// out of a sandbox decides over names, and must not decide to remove a tree here.
pub(super) fn merge(from: &Path, to: &Path) -> Result<()> {
    let source = fs::symlink_metadata(from).context("cp", || from.display().to_string())?;
    let existing = match fs::symlink_metadata(to) {
        Ok(existing) => Some(existing),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(Error::io("cp", "cannot look at the destination", error).with("path", to.display())),
    };
    match existing {
        Some(existing) if existing.is_dir() != source.is_dir() => {
            let message =
                if source.is_dir() { "a directory cannot replace what is none" } else { "a directory cannot be replaced by what is none" };
            Err(Error::new(ErrorKind::InvalidInput, "cp", message).with("path", to.display()))
        }
        Some(_) if source.is_dir() => {
            open_up(from, &source)?;
            // Listed first: one open directory at a time, however deep a stranger's tree is.
            let list = || fs::read_dir(from)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>();
            let names = list().context("cp", || format!("cannot read {}", from.display()))?;
            names.iter().try_for_each(|name| merge(&from.join(name), &to.join(name)))
        }
        _ => {
            if source.is_dir() {
                open_up(from, &source)?;
            }
            let failed = |error| Error::io("cp", "cannot put the copy in its place", error).with("path", to.display());
            fs::rename(from, to).map_err(failed)?;
            if source.is_dir() { fs::set_permissions(to, source.permissions()).map_err(failed) } else { Ok(()) }
        }
    }
}

/// Lets its owner write to a directory, which is needed to move it or what is in it.
fn open_up(path: &Path, metadata: &fs::Metadata) -> Result<()> {
    let mode = metadata.mode() & 0o777;
    if mode & 0o700 == 0o700 {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o700)).context("cp", || format!("cannot open {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn directories_merge_and_files_replace() {
        let (from, to) = (tree(&[("d/a", "new"), ("d/e/b", "new")]), tree(&[("d/a", "old"), ("d/e/c", "old")]));
        merge(&from.path().join("d"), &to.path().join("d")).unwrap();
        let read = |path: &str| fs::read_to_string(to.path().join(path)).unwrap();
        assert_eq!([read("d/a"), read("d/e/b"), read("d/e/c")], ["new", "new", "old"]);
    }

    #[test]
    fn a_stranger_cannot_replace_a_tree_by_a_file_or_reach_through_a_link() {
        let elsewhere = tree(&[("keep", "old")]);
        let (from, to) = (tree(&[("d/a", "new"), ("d/l/keep", "new")]), tree(&[("d/a/deep", "old")]));
        symlink(elsewhere.path(), to.path().join("d/l")).unwrap();
        assert!(merge(&from.path().join("d/a"), &to.path().join("d/a")).is_err());
        assert!(merge(&from.path().join("d/l"), &to.path().join("d/l")).is_err());
        assert_eq!(fs::read_to_string(to.path().join("d/a/deep")).unwrap(), "old");
        assert_eq!(fs::read_to_string(elsewhere.path().join("keep")).unwrap(), "old");
    }

    #[test]
    fn staging_leaves_nothing() {
        let root = tree(&[]);
        let staging = Staging::new(root.path()).unwrap();
        fs::create_dir(staging.entry("x")).unwrap();
        drop(staging);
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
