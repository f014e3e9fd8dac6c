use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Result, State};

/// Something outside of sandbar's own process that a sandbox holds, and that must not outlive it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Resource {
    /// A host process. It is ours only while its start time is this one (`/proc/PID/stat`, field 22) and the boot is the same.
    Process {
        /// The host's process id.
        pid: u32,
        /// Clock ticks after boot.
        start_time: u64,
        /// What it is for: `agent`, `keeper` ….
        role: String,
    },
    /// A control group, by its folder.
    Cgroup {
        /// The absolute path.
        path: PathBuf,
    },
    /// A folder with everything in it.
    Folder {
        /// The absolute path.
        path: PathBuf,
    },
    /// A loop device attached to a file.
    Loop {
        /// The file behind it (the device number is found through it).
        backing: PathBuf,
    },
    /// An object of an engine (a container, an image, a VM), by its name there.
    Engine {
        /// Which engine.
        engine: String,
        /// What kind of object.
        object: String,
        /// Its name or id.
        name: String,
    },
}

/// The ledger's face to a provider: what it must say *before* it acts, so that a crash at any instant can be undone.
///
/// Calls are short and synchronous (a local database); they return when the row is written.
pub trait Journal: Send + Sync {
    /// Records a resource before it is made. For a process: after it exists, and before it may do anything.
    ///
    /// # Errors
    /// `Unavailable` when the ledger cannot be written; then the resource must not be made.
    fn intend(&self, resource: &Resource) -> Result<()>;

    /// The same for several that are about to be made, in one step.
    ///
    /// # Errors
    /// As [`intend`](Self::intend); then none of them must be made.
    fn intend_all(&self, resources: &[Resource]) -> Result<()> {
        resources.iter().try_for_each(|resource| self.intend(resource))
    }

    /// Forgets a resource after it is gone.
    ///
    /// # Errors
    /// As [`intend`](Self::intend).
    fn forget(&self, resource: &Resource) -> Result<()>;

    /// Replaces the provider's own record of the sandbox, in one step with the state it is in from now on.
    ///
    /// # Errors
    /// As [`intend`](Self::intend).
    fn commit(&self, record: &Value, state: State) -> Result<()>;

    /// A named step, for tests that kill the process there. Does nothing otherwise.
    fn step(&self, name: &'static str) {
        let _ = name;
    }
}

/// A journal that keeps nothing: for tests, and for embedders that accept leaks after a crash.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoJournal;

impl Journal for NoJournal {
    fn intend(&self, _: &Resource) -> Result<()> {
        Ok(())
    }

    fn forget(&self, _: &Resource) -> Result<()> {
        Ok(())
    }

    fn commit(&self, _: &Value, _: State) -> Result<()> {
        Ok(())
    }
}
