use std::{
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use sandbar_core::{Error, ErrorKind, Journal, Resource, Result, State};
use serde_json::Value;

use crate::host;

/// A journal that remembers, and that notices what is told too late or forgotten too early.
#[derive(Default)]
pub struct Recorder {
    inner: Mutex<Inner>,
    /// Intents left until the journal refuses; 0 is never.
    fail_after: AtomicUsize,
    /// The sandbox's own folder, which the runtime has made.
    folder: PathBuf,
}

#[derive(Default)]
struct Inner {
    held: Vec<Resource>,
    ever: Vec<Resource>,
    violations: Vec<String>,
    record: Option<Value>,
    states: Vec<State>,
}

impl Recorder {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, ..Self::default() }
    }

    /// Refuses the intent number `count` (from 1) and all that follow, as a full disk would.
    pub(crate) fn refuse_from(&self, count: usize) {
        self.fail_after.store(count, Ordering::SeqCst);
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was intended and not forgotten.
    pub fn held(&self) -> Vec<Resource> {
        self.inner().held.clone()
    }

    /// What was ever intended.
    pub fn ever(&self) -> Vec<Resource> {
        self.inner().ever.clone()
    }

    /// The provider's last record.
    pub fn record(&self) -> Option<Value> {
        self.inner().record.clone()
    }

    /// The states that were committed.
    pub fn states(&self) -> Vec<State> {
        self.inner().states.clone()
    }

    /// What is left on the host although the sandbox is gone, and what was told at the wrong time.
    pub fn complaints(&self) -> Vec<String> {
        let inner = self.inner();
        let mut complaints = inner.violations.clone();
        complaints.extend(inner.held.iter().map(|resource| format!("never forgotten in the journal: {resource:?}")));
        let ever = inner.ever.iter().filter(|resource| !matches!(resource, Resource::Folder { path } if *path == self.folder));
        complaints.extend(ever.filter(|resource| host::exists(resource)).map(|resource| format!("still there: {resource:?}")));
        complaints
    }
}

impl Journal for Recorder {
    fn intend(&self, resource: &Resource) -> Result<()> {
        let left = self.fail_after.load(Ordering::SeqCst);
        if left == 1 {
            return Err(Error::new(ErrorKind::Unavailable, "journal", "the ledger cannot be written"));
        }
        if left > 1 {
            self.fail_after.store(left - 1, Ordering::SeqCst);
        }
        let made_already = match resource {
            Resource::Folder { path } | Resource::Cgroup { path } => *path != self.folder && path.exists(),
            _ => false,
        };
        let mut inner = self.inner();
        if made_already && !inner.ever.contains(resource) {
            inner.violations.push(format!("made before it was told: {resource:?}"));
        }
        if !inner.ever.contains(resource) {
            inner.ever.push(resource.clone());
        }
        if !inner.held.contains(resource) {
            inner.held.push(resource.clone());
        }
        Ok(())
    }

    fn forget(&self, resource: &Resource) -> Result<()> {
        let there = host::exists(resource) && !matches!(resource, Resource::Folder { path } if *path == self.folder);
        let mut inner = self.inner();
        if there {
            inner.violations.push(format!("forgotten before it was gone: {resource:?}"));
        }
        inner.held.retain(|held| held != resource);
        Ok(())
    }

    fn commit(&self, record: &Value, state: State) -> Result<()> {
        let mut inner = self.inner();
        inner.record = Some(record.clone());
        inner.states.push(state);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_too_late_or_never_forgotten_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(folder.path().to_owned());
        let made = folder.path().join("made");
        std::fs::create_dir(&made).unwrap();
        recorder.intend(&Resource::Folder { path: made.clone() }).unwrap();
        recorder.forget(&Resource::Folder { path: made.clone() }).unwrap();
        recorder.intend(&Resource::Cgroup { path: folder.path().join("group") }).unwrap();
        let complaints = recorder.complaints().join("\n");
        for part in ["made before it was told", "forgotten before it was gone", "never forgotten", "still there"] {
            assert!(complaints.contains(part), "{part} is not in {complaints}");
        }
    }

    #[test]
    fn a_resource_that_came_and_went_in_order_is_no_complaint() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::new(folder.path().to_owned());
        let resource = Resource::Folder { path: folder.path().join("made") };
        recorder.intend(&resource).unwrap();
        std::fs::create_dir(folder.path().join("made")).unwrap();
        std::fs::remove_dir(folder.path().join("made")).unwrap();
        recorder.forget(&resource).unwrap();
        assert_eq!(recorder.complaints(), Vec::<String>::new());
    }

    #[test]
    fn it_refuses_from_the_intent_it_was_told() {
        let recorder = Recorder::new(PathBuf::from("/nonexistent"));
        let resource = Resource::Folder { path: "/nonexistent/x".into() };
        recorder.refuse_from(2);
        assert!(recorder.intend(&resource).is_ok());
        assert!(recorder.intend(&resource).is_err());
        assert!(recorder.intend(&resource).is_err());
    }
}
