use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use sandbar_core::{Context, Error, ErrorKind, Result, SandboxId};

use crate::home::Home;

/// The right to change the life cycle of one sandbox. The kernel takes it back when the holder dies, so a row in transition whose lock is
/// free has nobody who works on it.
#[derive(Debug)]
pub(crate) struct SandboxLock {
    file: File,
    path: PathBuf,
}

impl SandboxLock {
    /// Longest pause between two tries: what a waiter may lose.
    const MOST_PAUSE: Duration = Duration::from_millis(10);

    /// Takes the lock if it is free. `verb` is what others are told while it is held.
    pub(crate) fn try_take(home: &Home, id: &SandboxId, verb: &'static str) -> Result<Option<Self>> {
        Self::try_path(home.lock(id), verb)
    }

    /// Takes the lock, waiting at most `wait` for another holder.
    ///
    /// A blocking `flock` cannot be given up, and a thread that hangs in one would keep the process from ending; so it is tried again, at
    /// growing intervals.
    ///
    /// # Errors
    /// `Conflict` with the holder and the time waited.
    pub(crate) async fn take(home: &Home, id: &SandboxId, verb: &'static str, wait: Duration) -> Result<Self> {
        let begin = Instant::now();
        let mut pause = Duration::from_micros(200);
        loop {
            if let Some(lock) = Self::try_take(home, id, verb)? {
                return Ok(lock);
            }
            if begin.elapsed() >= wait {
                let holder = fs::read_to_string(home.lock(id)).unwrap_or_default();
                return Err(Error::new(ErrorKind::Conflict, verb, "another command is working on the sandbox")
                    .with("id", id)
                    .with("holder", holder.trim())
                    .with("waited", format!("{:.1} s", begin.elapsed().as_secs_f64())));
            }
            tokio::time::sleep(pause.min(wait.saturating_sub(begin.elapsed()))).await;
            pause = (pause * 2).min(Self::MOST_PAUSE);
        }
    }

    /// Takes the lock file at `path` if it is free.
    pub(crate) fn try_path(path: PathBuf, verb: &str) -> Result<Option<Self>> {
        loop {
            let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = file.context("lock", || format!("cannot open {}", path.display()))?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(error) => return Err(Error::io("lock", format!("cannot lock {}", path.display()), error.into())),
            }
            // Between open and lock the holder may have removed the file: then this lock is one that nobody else sees.
            if is_at(&file, &path)? {
                // Only for messages: a full disk must not keep a sandbox from being removed. Never truncated, since ext4 writes a file that was
                // out to the disk when it is closed (`auto_da_alloc`), which takes milliseconds.
                let text = format!("process {}, {verb}", std::process::id());
                let _ = file.write_all_at(format!("{text:40}").as_bytes(), 0);
                return Ok(Some(Self { file, path }));
            }
        }
    }

    /// Removes the lock file, while holding it, and lets go. For a sandbox that is gone.
    pub(crate) fn remove(self) {
        let _ = fs::remove_file(&self.path);
        drop(self.file);
    }
}

fn is_at(file: &File, path: &Path) -> Result<bool> {
    let mine = file.metadata().context("lock", || format!("cannot stat {}", path.display()))?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (mine.dev(), mine.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("lock", || format!("cannot stat {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> (tempfile::TempDir, Home, SandboxId) {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        (folder, home, SandboxId::from_random([3; 8]))
    }

    #[tokio::test]
    async fn a_second_taker_is_told_who_holds_it_and_how_long_it_waited() {
        let (_folder, home, id) = setup();
        let _held = SandboxLock::try_take(&home, &id, "checkpoint").unwrap().unwrap();
        let begin = Instant::now();
        let error = SandboxLock::take(&home, &id, "stop", Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(&format!("process {}, checkpoint", std::process::id())), "{error}");
        // Told to a tenth of a second, and a busy machine takes longer than it was asked for.
        let told = error.to_string();
        let waited: f64 = told.split_once("waited=").unwrap().1.split_once(" s").unwrap().0.parse().unwrap();
        assert!((0.1..=begin.elapsed().as_secs_f64() + 0.05).contains(&waited), "{told}");
    }

    #[test]
    fn a_removed_lock_is_not_shared_with_a_new_one() {
        let (_folder, home, id) = setup();
        let first = SandboxLock::try_take(&home, &id, "a").unwrap().unwrap();
        let late = File::open(home.lock(&id)).unwrap();
        first.remove();
        let second = SandboxLock::try_take(&home, &id, "b").unwrap().unwrap();
        assert!(!is_at(&late, &home.lock(&id)).unwrap());
        assert!(SandboxLock::try_take(&home, &id, "c").unwrap().is_none());
        second.remove();
        assert!(!home.lock(&id).exists());
    }
}
