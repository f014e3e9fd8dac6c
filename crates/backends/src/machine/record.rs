use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_core::{Error, ErrorKind, Journal, Renewal, Resource, Result, RootSource, State};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The form of [`Record`] that this build writes. A greater one is refused: a field may mean what we do not know.
const VERSION: u32 = 1;

/// What the machine keeps in the ledger of one sandbox: everything that another process needs to go on with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record<P> {
    version: u32,
    /// Counts restores in place; names the folder.
    pub(super) generation: u32,
    /// The root that this generation was made from: a restore changes the saved layers.
    pub(super) root: RootSource,
    /// Where the agent is; `None` when stopped.
    pub(super) place: Option<P>,
    /// What it holds outside of itself. A row of the ledger that is not among these was left by a crash.
    pub(super) resources: Vec<Resource>,
    /// What was renewed, if it began from saved memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) renewal: Option<Renewal>,
    /// Why datagrams cannot leave, where connections can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) no_datagrams: Option<String>,
    /// The only ports that connections can leave to; all where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) only_ports: Vec<u16>,
}

impl<P: Serialize + DeserializeOwned> Record<P> {
    pub(super) fn new(generation: u32, root: RootSource, place: Option<P>, resources: Vec<Resource>) -> Self {
        Self { version: VERSION, generation, root, place, resources, renewal: None, no_datagrams: None, only_ports: Vec::new() }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// `Corrupt` when it is none, or of a newer sandbar.
    pub(super) fn from_json(value: Value) -> Result<Self> {
        let version = value.get("version").and_then(Value::as_u64);
        if version.is_some_and(|version| version > u64::from(VERSION)) {
            let message = "the sandbox was made by a newer sandbar";
            return Err(Error::new(ErrorKind::Corrupt, "attach", message).with("version", version.unwrap_or_default()));
        }
        serde_json::from_value(value).map_err(|error| {
            Error::new(ErrorKind::Corrupt, "attach", "the ledger's record of the sandbox cannot be read").with_source(error)
        })
    }

    pub(super) fn to_json(&self) -> Result<Value> {
        serde_json::to_value(self)
            .map_err(|error| Error::new(ErrorKind::Internal, "record", "the record cannot be written as JSON").with_source(error))
    }
}

/// The folder of a generation in the sandbox's folder.
pub(super) fn generation_folder(sandbox: &Path, generation: u32) -> PathBuf {
    sandbox.join(format!("g{generation}"))
}

/// The generations that have a folder now, in order.
pub(super) fn generations_on_disk(sandbox: &Path) -> Vec<u32> {
    let names = std::fs::read_dir(sandbox).into_iter().flatten().flatten();
    let mut found: Vec<u32> = names.filter_map(|entry| entry.file_name().to_str()?.strip_prefix('g')?.parse().ok()).collect();
    found.sort_unstable();
    found
}

/// A journal that remembers what one generation holds, for the record, and passes everything on.
pub(super) struct Holdings {
    journal: Arc<dyn Journal>,
    held: Mutex<Vec<Resource>>,
}

impl Holdings {
    pub(super) fn new(journal: Arc<dyn Journal>, held: Vec<Resource>) -> Self {
        Self { journal, held: Mutex::new(held) }
    }

    /// What is held now.
    pub(super) fn held(&self) -> Vec<Resource> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Resource>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journal for Holdings {
    fn intend(&self, resource: &Resource) -> Result<()> {
        self.intend_all(std::slice::from_ref(resource))
    }

    fn intend_all(&self, resources: &[Resource]) -> Result<()> {
        self.journal.intend_all(resources)?;
        let mut held = self.lock();
        for resource in resources {
            if !held.contains(resource) {
                held.push(resource.clone());
            }
        }
        Ok(())
    }

    fn forget(&self, resource: &Resource) -> Result<()> {
        self.journal.forget(resource)?;
        self.lock().retain(|kept| kept != resource);
        Ok(())
    }

    fn commit(&self, record: &Value, state: State) -> Result<()> {
        self.journal.commit(record, state)
    }

    fn step(&self, name: &'static str) {
        self.journal.step(name);
    }
}

#[cfg(test)]
mod tests {
    use sandbar_core::NoJournal;

    use super::*;

    #[test]
    fn a_record_of_a_newer_sandbar_or_of_nobody_is_refused() {
        let record = Record::new(1, RootSource::empty(), Some(7_u32), Vec::new());
        let mut json = record.to_json().unwrap();
        assert_eq!(Record::<u32>::from_json(json.clone()).unwrap().place, Some(7));
        json["version"] = 2.into();
        assert!(Record::<u32>::from_json(json).unwrap_err().to_string().contains("newer"));
        assert_eq!(Record::<u32>::from_json(Value::Null).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn holdings_are_what_was_intended_and_not_forgotten() {
        let folder = |path: &str| Resource::Folder { path: path.into() };
        let holdings = Holdings::new(Arc::new(NoJournal), vec![folder("/a")]);
        holdings.intend(&folder("/b")).unwrap();
        holdings.intend(&folder("/b")).unwrap();
        holdings.forget(&folder("/a")).unwrap();
        assert_eq!(holdings.held(), [folder("/b")]);
    }

    #[test]
    fn generations_are_found_by_their_folders() {
        let home = tempfile::tempdir().unwrap();
        for name in ["g2", "g10", "g1", "output", "gx"] {
            std::fs::create_dir(home.path().join(name)).unwrap();
        }
        assert_eq!(generations_on_disk(home.path()), [1, 2, 10]);
    }
}
