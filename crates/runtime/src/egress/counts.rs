use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::{Deserialize, Serialize};

use super::log::NetworkEvent;

/// The file in the sandbox's folder.
const FILE: &str = "network.counts";

/// What has been decided about a sandbox, and what has passed, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NetworkCounts {
    /// Names and connections that were allowed.
    pub(crate) allowed: u64,
    /// Those that were refused.
    pub(crate) refused: u64,
    /// Those that were allowed, and could not be connected to.
    pub(crate) failed: u64,
    /// Bytes that went out.
    pub(crate) sent: u64,
    /// Bytes that came in.
    pub(crate) received: u64,
}

impl NetworkCounts {
    /// What the sandbox's folder says: none where nobody has decided yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn of(folder: &Path) -> io::Result<Self> {
        match fs::read(folder.join(FILE)) {
            Ok(text) => Ok(serde_json::from_slice(&text)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }
}

/// Counts for one sandbox, and writes down what it has counted: now and then, since each byte would be too often. Who is killed has
/// lost what came after the last time, so that numbers never go back for those who read them.
#[derive(Debug)]
pub(super) struct Counter {
    file: PathBuf,
    allowed: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    written: Mutex<NetworkCounts>,
}

impl Counter {
    /// Goes on counting from what the sandbox's folder says. What cannot be read is told in this process's own log, and counted anew.
    pub(super) fn new(folder: &Path) -> Self {
        let counts = NetworkCounts::of(folder).unwrap_or_else(|error| {
            tracing::warn!(folder = %folder.display(), %error, "cannot read what has been counted of the network");
            NetworkCounts::default()
        });
        Self {
            file: folder.join(FILE),
            allowed: counts.allowed.into(),
            refused: counts.refused.into(),
            failed: counts.failed.into(),
            sent: counts.sent.into(),
            received: counts.received.into(),
            written: Mutex::new(counts),
        }
    }

    /// Something was decided.
    pub(super) fn decided(&self, event: NetworkEvent) {
        let counter = match event {
            NetworkEvent::Allowed => &self.allowed,
            NetworkEvent::Refused => &self.refused,
            NetworkEvent::Failed => &self.failed,
            NetworkEvent::Ended | NetworkEvent::Secret | NetworkEvent::Leak => return,
        };
        counter.fetch_add(1, Relaxed);
    }

    fn now(&self) -> NetworkCounts {
        NetworkCounts {
            allowed: self.allowed.load(Relaxed),
            refused: self.refused.load(Relaxed),
            failed: self.failed.load(Relaxed),
            sent: self.sent.load(Relaxed),
            received: self.received.load(Relaxed),
        }
    }

    /// Writes down what has been counted since the last time. A sandbox that is gone has no folder.
    pub(super) fn write(&self) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.now();
        if now == *written {
            return;
        }
        let new = self.file.with_extension("counts.new");
        let done = serde_json::to_vec(&now).map_err(io::Error::other).and_then(|text| {
            fs::write(&new, text)?;
            fs::rename(&new, &self.file)
        });
        match done {
            Ok(()) => *written = now,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(file = %self.file.display(), %error, "cannot write what has been counted of the network"),
        }
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        self.write();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_goes_on_where_it_was_and_never_goes_back() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(NetworkCounts::of(folder.path()).unwrap(), NetworkCounts::default());
        let counter = Counter::new(folder.path());
        counter.decided(NetworkEvent::Allowed);
        counter.decided(NetworkEvent::Refused);
        counter.decided(NetworkEvent::Ended);
        counter.sent.fetch_add(10, Relaxed);
        counter.write();
        let known = NetworkCounts { allowed: 1, refused: 1, sent: 10, ..NetworkCounts::default() };
        assert_eq!(NetworkCounts::of(folder.path()).unwrap(), known);
        counter.sent.fetch_add(1, Relaxed);
        // As one that was killed.
        std::mem::forget(counter);
        let counter = Counter::new(folder.path());
        counter.received.fetch_add(7, Relaxed);
        drop(counter);
        assert_eq!(NetworkCounts::of(folder.path()).unwrap(), NetworkCounts { received: 7, ..known });
    }

    #[test]
    fn a_folder_that_is_gone_is_not_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let counter = Counter::new(&gone);
        counter.decided(NetworkEvent::Failed);
        drop(counter);
        assert!(!gone.exists());
    }
}
