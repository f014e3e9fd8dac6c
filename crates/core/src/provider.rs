use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    FeatureSet, IdRange, Isolation, Journal, Lifetime, Resource, Result, RootSource, SandboxHandle, SandboxId, SandboxSpec, SecretValue,
};

/// What a provider is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderInfo {
    /// Its name, as given to `--on`.
    pub name: String,
    /// How strong its wall is.
    pub isolation: Isolation,
    /// What it can do on this machine as it is now.
    pub features: FeatureSet,
    /// One sentence about the wall.
    pub description: String,
    /// Versions of the engine, ways of working (`root`, `rootless, one id`), anything a reader of `inspect` wants to know.
    pub notes: Vec<String>,
}

/// Whether a provider works here: from trying, never from a file's existence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Whether `provision` can be expected to work.
    pub usable: bool,
    /// One sentence: what was found, or what is missing.
    pub verdict: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

/// Everything a provider needs to make a sandbox.
#[derive(Clone)]
pub struct ProvisionRequest {
    /// Its id.
    pub id: SandboxId,
    /// What it shall be.
    pub spec: SandboxSpec,
    /// The values of its secrets, by their names, for a provider on [another host](SandboxProvider::is_elsewhere), which keeps them there. Any other has no
    /// use for them, and is given none; neither is one that makes it from a checkpoint, or that attaches to it.
    pub secret_values: BTreeMap<String, SecretValue>,
    /// Its root file system.
    pub root: RootSource,
    /// The sandbox's own folder on the host: exists, mode 0700, empty, and is the provider's to fill.
    pub folder: PathBuf,
    /// Host ids for it, when the runtime runs as root.
    pub ids: Option<IdRange>,
    /// Whether it outlives this process.
    pub lifetime: Lifetime,
    /// Where to say what is about to be made.
    pub journal: Arc<dyn Journal>,
}

/// A new root for a sandbox that is put back, or forked, from a checkpoint. `root.saved_layers` holds the checkpoint's layers.
#[derive(Clone)]
pub struct RestoreRequest {
    /// The root with the checkpoint's layers.
    pub root: RootSource,
    /// The folder of a `Memory` checkpoint with the provider's record of it.
    pub memory: Option<(PathBuf, Value)>,
}

/// What the ledger knows of an existing sandbox.
#[derive(Clone)]
pub struct AttachRequest {
    /// As it was provisioned (the lifetime is that of the original).
    pub provision: ProvisionRequest,
    /// The record that the provider last gave to [`Journal::commit`].
    pub record: Value,
}

/// What a state folder still needs of what a provider keeps elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Needs {
    /// The sandboxes that there are.
    pub sandboxes: Vec<SandboxId>,
    /// The roots of sandboxes and of checkpoints.
    pub roots: Vec<RootSource>,
}

/// Makes sandboxes of one kind.
///
/// # Behavior
/// - `info` and `probe` change nothing.
/// - `provision` returns when the agent answers; when it fails, it has undone what it did.
/// - every resource is told to the request's [`Journal`] before it is made.
/// - what [`ProviderInfo::features`] claims works; [`Checked`](crate::Checked) refuses the rest before the provider sees it.
#[async_trait]
pub trait SandboxProvider: Send + Sync {
    /// What it is and what it claims here.
    fn info(&self) -> ProviderInfo;

    /// How strong the wall of a sandbox of this specification would be, where that depends on it (a runtime within the provider).
    fn isolation(&self, spec: &SandboxSpec) -> Isolation {
        let _ = spec;
        self.info().isolation
    }

    /// Whether its sandboxes are on another host, which has its own images and decides itself about what leaves them. Then a root is
    /// [`Elsewhere`](crate::ImageKind::Elsewhere), and [`SandboxHandle::egress`] is not asked for.
    fn is_elsewhere(&self) -> bool {
        false
    }

    /// Whether it works here.
    async fn probe(&self) -> Probe;

    /// Makes a sandbox and waits until its agent answers.
    ///
    /// # Errors
    /// `Unavailable` when something it needs is missing, `InvalidInput` for a specification that cannot work.
    async fn provision(&self, request: ProvisionRequest) -> Result<Box<dyn SandboxHandle>>;

    /// A handle of an existing sandbox, in whatever state it is. Does not ask the agent.
    ///
    /// # Errors
    /// `Corrupt` when the record is not this provider's.
    async fn attach(&self, request: AttachRequest) -> Result<Box<dyn SandboxHandle>>;

    /// Makes a new sandbox from a checkpoint (a fork), with a new identity.
    ///
    /// # Errors
    /// `Unsupported` for a checkpoint of another provider, version or CPU; else as [`provision`](Self::provision).
    async fn restore(&self, request: ProvisionRequest, from: RestoreRequest) -> Result<Box<dyn SandboxHandle>>;

    /// The resources that a record (the last one given to [`Journal::commit`]) accounts for. What the ledger holds for the sandbox
    /// beyond these, and beyond the runtime's own, was left by a sandbar that died in the middle of a verb; under the sandbox's lock it
    /// may be given to [`reclaim`](Self::reclaim) while the sandbox runs on. `None`: this provider cannot tell.
    ///
    /// # Errors
    /// `Corrupt` when the record is not this provider's.
    fn resources(&self, record: &Value) -> Result<Option<Vec<Resource>>> {
        let _ = record;
        Ok(None)
    }

    /// Removes what a crashed sandbar left: ends processes, removes groups, devices and folders. A resource that is gone, or is
    /// not ours any more (another start time, another boot), is no error.
    ///
    /// # Errors
    /// The first resource that could not be removed; the others are removed all the same.
    async fn reclaim(&self, id: &SandboxId, resources: &[Resource]) -> Result<()>;

    /// Removes what this provider keeps elsewhere (in an engine) for this state folder, and nobody needs: what the ledger has lost, images
    /// that were loaded. `needs` is asked after the provider has looked, so that what is made meanwhile is not taken for lost. Gives what was removed, for a
    /// report.
    ///
    /// # Errors
    /// Those of the engine, and of `needs`. Where there is no engine nothing is removed, and that is no error.
    async fn collect(&self, needs: &(dyn Fn() -> Result<Needs> + Send + Sync)) -> Result<Vec<String>> {
        let _ = needs;
        Ok(Vec::new())
    }

    /// Removes what a checkpoint holds elsewhere, before its folder is removed; of one that was only begun, too. `folder` is what
    /// [`SandboxHandle::checkpoint`] was given, wherever it is now, and may be missing.
    ///
    /// # Errors
    /// When it cannot be removed; the folder must stay then, since nothing else knows of it.
    async fn discard_checkpoint(&self, folder: &Path) -> Result<()> {
        let _ = folder;
        Ok(())
    }

    /// Looks for an image where this provider itself has images, or gets it from where its engine does, and writes it to `into` as an archive that an image
    /// store takes. `said` hears how far that is. `false`: this provider has no images of its own.
    ///
    /// # Errors
    /// `NotFound` when there is none of that name; those of the engine.
    async fn fetch_image(&self, reference: &str, into: &Path, said: &(dyn for<'s> Fn(&'s str) + Send + Sync)) -> Result<bool> {
        let _ = (reference, into, said);
        Ok(false)
    }
}
