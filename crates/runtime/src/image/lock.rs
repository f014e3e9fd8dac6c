//! Locks between processes, which the kernel lets go when their holder dies.

use std::{
    fs::File,
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use sandbar_core::{Context as _, Result};

const OPERATION: &str = "image lock";

/// A lock on a file, held until dropped, and until then by nobody else: threads of this process included, since each
/// lock has a file description of its own.
#[derive(Debug)]
pub(super) struct FileLock {
    _file: File,
    /// A lock made for one piece of work leaves no file behind.
    remove: Option<PathBuf>,
}

impl FileLock {
    /// Waits for it. Blocks: for short pieces of work only.
    pub(super) fn exclusive(path: &Path) -> Result<Self> {
        Self::blocking(path, FlockOperation::LockExclusive)
    }

    /// Waits until nobody holds it exclusively.
    pub(super) fn shared(path: &Path) -> Result<Self> {
        Self::blocking(path, FlockOperation::LockShared)
    }

    /// Takes it if it is free.
    pub(super) fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        let file = open(path).context(OPERATION, || format!("cannot open {}", path.display()))?;
        let taken =
            take(&file, FlockOperation::NonBlockingLockExclusive).context(OPERATION, || format!("cannot lock {}", path.display()))?;
        Ok(taken.then_some(Self { _file: file, remove: None }))
    }

    /// Waits for the lock of one piece of work, whose file vanishes with it. May wait for minutes (another process
    /// fetches the same layer); dropping the future ends the waiting.
    pub(super) async fn of_work(path: PathBuf) -> Result<Self> {
        // There is no way to await a flock, and a thread blocked in it could not be called off.
        let mut pause = Duration::from_millis(5);
        loop {
            let file = open(&path).context(OPERATION, || format!("cannot open {}", path.display()))?;
            let taken =
                take(&file, FlockOperation::NonBlockingLockExclusive).context(OPERATION, || format!("cannot lock {}", path.display()))?;
            if taken {
                if is_still(&path, &file) {
                    return Ok(Self { _file: file, remove: Some(path) });
                }
                // The last holder removed it between our opening and our locking: it is nobody's lock any more.
                continue;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    fn blocking(path: &Path, operation: FlockOperation) -> Result<Self> {
        let file = open(path).context(OPERATION, || format!("cannot open {}", path.display()))?;
        take(&file, operation).context(OPERATION, || format!("cannot lock {}", path.display()))?;
        Ok(Self { _file: file, remove: None })
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // While it is held, so that whoever opened this very file and waits will notice that it is gone.
        if let Some(path) = &self.remove {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Whether the lock was taken; `false` only for the operations that do not wait.
pub(super) fn take(file: &File, operation: FlockOperation) -> io::Result<bool> {
    loop {
        return match flock(file, operation) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(Errno::INTR) => continue,
            Err(error) => Err(error.into()),
        };
    }
}

/// Whether a path still leads to this open file.
pub(super) fn is_still(path: &Path, file: &File) -> bool {
    match (std::fs::symlink_metadata(path), file.metadata()) {
        (Ok(named), Ok(held)) => named.dev() == held.dev() && named.ino() == held.ino(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_others_until_it_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = FileLock::shared(&path).unwrap();
        assert!(FileLock::try_exclusive(&path).unwrap().is_none());
        drop(held);
        assert!(FileLock::try_exclusive(&path).unwrap().is_some());
    }

    #[tokio::test]
    async fn work_locks_leave_no_file_and_admit_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("work");
        let inside = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (path, inside) = (path.clone(), inside.clone());
                tokio::spawn(async move {
                    let held = FileLock::of_work(path).await.unwrap();
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(held);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert!(!path.exists());
    }
}
