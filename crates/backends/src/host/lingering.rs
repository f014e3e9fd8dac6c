//! The end of an overlay, where nobody waits for it.
//!
//! With the last mount of an overlay the kernel writes the whole file system below it to the disk, and gives back the folders that were
//! removed from it. The last mount would go with the sandbox's first process, whose end, and the removal after it, would take as long as
//! that. So the mount is held until the folder is removed, or for a moment if it is not.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::worker;
use crate::machine::process::HostProcess;

/// How long an overlay is held for a removal that may come: it comes at once, or not at all.
const MOMENT: Duration = Duration::from_millis(20);

/// The root of a sandbox whose processes have ended.
pub(crate) struct Root(#[expect(dead_code, reason = "it is there to be dropped")] File);

fn held() -> MutexGuard<'static, HashMap<PathBuf, Root>> {
    static HELD: OnceLock<Mutex<HashMap<PathBuf, Root>>> = OnceLock::new();
    HELD.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds the root of a sandbox that is about to end, which its first process has at `path` (empty: as its own root). Does nothing when it
/// has ended already.
pub(crate) fn hold(folder: &Path, process: &HostProcess, path: &str) {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, format!("/proc/{}/root{path}", process.pid), flags, Mode::empty());
    // Alive only now: so the id was not another's.
    if let Ok(root) = root
        && process.is_alive()
    {
        held().insert(folder.to_owned(), Root(root.into()));
    }
}

/// Takes it, to be dropped: before the folder gets another overlay, since two at a time would spoil it, or after it was removed.
pub(crate) fn take(folder: &Path) -> Option<Root> {
    held().remove(folder)
}

/// Drops it after a moment in which the folder may be removed, away from whoever waits.
pub(crate) fn drop_later(folder: PathBuf) {
    tokio::spawn(async move {
        tokio::time::sleep(MOMENT).await;
        if let Some(root) = take(&folder) {
            let _ = worker::run(move || drop(root)).await;
        }
    });
}
