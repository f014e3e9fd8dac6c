//! The end of an overlay, where nobody waits for it.
//!
//! With the last mount of an overlay the kernel writes the whole file system below it to the disk, and forgets the folders that were removed
//! from it. The last mount would go with the sandbox's first process, whose end would take as long as that: so it is held until the end.

use std::{
    collections::HashMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::machine::process::HostProcess;

/// The overlays that are about to end, by the generation's folder.
static ENDING: Mutex<Option<HashMap<PathBuf, usize>>> = Mutex::new(None);
static ENDED: Condvar = Condvar::new();

fn ending() -> MutexGuard<'static, Option<HashMap<PathBuf, usize>>> {
    ENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds an overlay; it ends when this is dropped.
pub(super) struct Lingering {
    folder: PathBuf,
    root: Option<File>,
}

impl Lingering {
    /// Holds the root of a sandbox. `None` when it has ended already.
    pub(super) fn hold(folder: &Path, process: &HostProcess) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, format!("/proc/{}/root", process.pid), flags, Mode::empty()).ok()?;
        // Only now: as long as it lives, the id has not become another's.
        if !process.is_alive() {
            return None;
        }
        *ending().get_or_insert_default().entry(folder.to_owned()).or_default() += 1;
        Some(Self { folder: folder.to_owned(), root: Some(root.into()) })
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        self.root = None;
        let mut ending = ending();
        let folders = ending.get_or_insert_default();
        match folders.get_mut(&self.folder) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(folders.remove(&self.folder)),
        }
        ENDED.notify_all();
    }
}

/// Waits until no earlier overlay over this folder is left: two at a time would spoil it.
pub(super) fn wait_for_end(folder: &Path) {
    let mut state = ending();
    while state.as_ref().is_some_and(|folders| folders.contains_key(folder)) {
        state = ENDED.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}
