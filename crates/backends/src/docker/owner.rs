//! Whose an object of the engine is.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use sandbar_core::{Context, Result, SandboxId};

use super::{error::OPERATION, image::blocking};

/// The label with the state folder's id, on every object that is ours.
pub(super) const HOME_LABEL: &str = "sandbar.home";
/// The label with the sandbox's id.
pub(super) const SANDBOX_LABEL: &str = "sandbar.sandbox";
/// The label with the generation.
pub(super) const GENERATION_LABEL: &str = "sandbar.generation";
/// The label with the host's boot.
pub(super) const BOOT_LABEL: &str = "sandbar.boot";

/// A state folder, as the engine knows it: several may use one engine.
#[derive(Debug, Clone)]
pub(super) struct Home {
    id: String,
    repository: String,
    lock: PathBuf,
}

impl Home {
    /// The id of a state folder, made at the first use.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn open(home: &Path) -> Result<Self> {
        let folder = home.join("docker");
        let cannot = || format!("cannot use {}", folder.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&folder).context(OPERATION, cannot)?;
        let id = read_or_make(&folder.join("id")).context(OPERATION, cannot)?;
        Ok(Self { repository: format!("sandbar-{}", &id[..12]), id, lock: folder.join("lock") })
    }

    /// Whether a state folder ever had an id.
    pub(super) fn exists(home: &Path) -> bool {
        home.join("docker/id").exists()
    }

    /// The id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The repository of its images.
    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    /// Labels of a container.
    pub(super) fn labels(&self, id: &SandboxId, generation: u32) -> HashMap<String, String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let labels = [
            (HOME_LABEL, self.id.clone()),
            (SANDBOX_LABEL, id.to_string()),
            (GENERATION_LABEL, generation.to_string()),
            (BOOT_LABEL, boot.trim().to_owned()),
        ];
        labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The lock under which images are loaded and removed.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) async fn loading(&self) -> Result<File> {
        let path = self.lock.clone();
        blocking(move || {
            let file = lock_file(&path)?;
            flock(&file, FlockOperation::LockExclusive)
                .map_err(io::Error::from)
                .context(OPERATION, || "cannot lock the images".to_owned())?;
            Ok(file)
        })
        .await
    }

    /// The same, if nobody has it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(super) fn try_loading(&self) -> Result<Option<File>> {
        let file = lock_file(&self.lock)?;
        Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file))
    }
}

fn lock_file(path: &Path) -> Result<File> {
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    opened.context(OPERATION, || format!("cannot open {}", path.display()))
}

fn read_or_make(path: &Path) -> io::Result<String> {
    let read = || -> io::Result<Option<String>> {
        let mut text = String::new();
        match File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let id = text.trim();
        Ok((id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.to_owned()))
    };
    if let Some(id) = read()? {
        return Ok(id);
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random)?;
    let id = hex::encode(random);
    let new = path.with_extension(&id);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(id.as_bytes())?;
    // Of two processes the first one wins: a link is not made over another.
    let linked = fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    match linked {
        Ok(()) => Ok(id),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read()?.ok_or_else(|| io::Error::other("the id file is damaged")),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_folder_keeps_its_id_and_another_has_another() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = Home::open(one.path()).unwrap();
        assert_eq!(Home::open(one.path()).unwrap().id(), first.id());
        assert_ne!(Home::open(two.path()).unwrap().id(), first.id());
        assert_eq!(fs::read_dir(one.path().join("docker")).unwrap().count(), 1);
    }
}
