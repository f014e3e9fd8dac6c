//! A store in a folder of its own, and looks behind its back.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use sandbar_core::{Error, RootSource};
use sandbar_runtime::image::{ImageStore, ImageSummary, Progress, ProgressCallback};
use tempfile::TempDir;

/// Runs a future to its end.
pub(crate) fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

/// A fresh store.
pub(crate) struct Fresh {
    pub(crate) folder: TempDir,
    pub(crate) store: ImageStore,
}

impl Fresh {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = ImageStore::open(folder.path()).unwrap();
        Self { folder, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("images").join(name)
    }

    pub(crate) fn import(&self, source: &Path, name: Option<&str>) -> Result<ImageSummary, Error> {
        block(self.store.import(source, name))
    }

    pub(crate) fn root(&self, reference: &str) -> RootSource {
        block(self.store.resolve(Some(reference))).unwrap()
    }

    /// The content of a file in the highest layer that has it.
    pub(crate) fn read(&self, reference: &str, path: &str) -> Vec<u8> {
        let root = self.root(reference);
        let layer = root.layers.iter().rev().map(|layer| layer.join(path)).find(|path| path.exists());
        fs::read(layer.unwrap_or_else(|| panic!("no layer has {path}"))).unwrap()
    }

    /// Everything in the store two levels deep, but for the skeleton: equal before and after what must leave nothing.
    pub(crate) fn listing(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![self.path("")];
        while let Some(folder) = waiting.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(self.path("")).unwrap().to_owned();
                if name.starts_with("host") || name.extension().is_some_and(|extension| extension == "lock") || name == Path::new("lock") {
                    continue;
                }
                if path.is_dir() && name.components().count() < 3 {
                    waiting.push(path);
                }
                found.insert(name);
            }
        }
        found
    }

    pub(crate) fn layers(&self) -> usize {
        fs::read_dir(self.path("layers")).unwrap().count()
    }
}

/// A progress callback that keeps what it is told.
pub(crate) fn recorder() -> (ProgressCallback, Arc<Mutex<Vec<Progress>>>) {
    let steps: Arc<Mutex<Vec<Progress>>> = Arc::default();
    let kept = steps.clone();
    (Arc::new(move |step| kept.lock().unwrap().push(step)), steps)
}

/// A progress callback that keeps nothing.
pub(crate) fn silent() -> ProgressCallback {
    Arc::new(|_| {})
}
