use std::{
    collections::HashMap,
    fs, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use sandbar_core::{
    AttachRequest, Claim, Error, ErrorKind, Feature, Isolation, Probe, ProviderInfo, ProvisionRequest, PutOptions, Resource,
    RestoreRequest, Result, SandboxHandle, SandboxId, SandboxProvider, State,
};

use super::{handle::FakeHandle, machine::Machine, tree::Tree};

/// What it can do.
const FEATURES: [Feature; 7] =
    [Feature::ExposePort, Feature::Pause, Feature::StopStart, Feature::DiskCheckpoint, Feature::Restore, Feature::Fork, Feature::Stats];

/// The layer of a checkpoint: the whole tree.
pub(super) const LAYER: &str = "tree.tar";

/// A provider in memory. Clones share their sandboxes, so that a clone stands for another process of the same machine.
#[derive(Clone, Default)]
pub struct FakeProvider {
    machines: Arc<Mutex<HashMap<SandboxId, Arc<Machine>>>>,
}

impl FakeProvider {
    /// A provider without sandboxes.
    pub fn new() -> Self {
        Self::default()
    }

    /// What it claims, for the table of all claims.
    pub fn claim() -> Claim {
        Claim { provider: "fake", features: FEATURES.into_iter().collect() }
    }

    fn machines(&self) -> MutexGuard<'_, HashMap<SandboxId, Arc<Machine>>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a sandbox as a crash of its agent would. `false` when there is none.
    pub fn crash(&self, id: &SandboxId) -> bool {
        let machine = self.machines().get(id).cloned();
        machine.is_some_and(|machine| {
            machine.crash("the agent was ended by signal 9");
            true
        })
    }

    fn begin(&self, request: ProvisionRequest, tree: Tree) -> Result<Box<dyn SandboxHandle>> {
        let machine = Machine::new(request, tree, State::Provisioning);
        if let Err(error) = machine.begin() {
            let _ = machine.destroy();
            return Err(error);
        }
        self.machines().insert(machine.request.id.clone(), Arc::clone(&machine));
        Ok(Box::new(FakeHandle::new(machine, self.clone())))
    }

    pub(super) fn forget(&self, id: &SandboxId) {
        self.machines().remove(id);
    }
}

/// The tree of a checkpoint's last layer, which holds those below it as well.
pub(super) fn load(from: &RestoreRequest) -> Result<Tree> {
    let mut tree = Tree::new();
    if let Some(layer) = from.root.saved_layers.last() {
        let bytes = fs::read(layer.join(LAYER)).map_err(|error| Error::io("restore", "cannot read the checkpoint", error))?;
        tree.unpack("/", "/", &PutOptions::default(), &bytes)?;
    }
    Ok(tree)
}

#[async_trait]
impl SandboxProvider for FakeProvider {
    fn info(&self) -> ProviderInfo {
        ProviderInfo {
            name: "fake".to_owned(),
            isolation: Isolation::None,
            features: FEATURES.into_iter().collect(),
            description: "a simulation in memory, for tests".to_owned(),
            notes: Vec::new(),
        }
    }

    async fn probe(&self) -> Probe {
        Probe { usable: true, verdict: "needs nothing".to_owned(), hint: None }
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Box<dyn SandboxHandle>> {
        self.begin(request, Tree::new())
    }

    async fn attach(&self, request: AttachRequest) -> Result<Box<dyn SandboxHandle>> {
        let id = request.provision.id.clone();
        if request.record.get("fake").and_then(|name| name.as_str()) != Some(id.as_str()) {
            return Err(Error::new(ErrorKind::Corrupt, "attach", "the record is not one of this provider").with("record", request.record));
        }
        let machine = self.machines().get(&id).cloned();
        let machine = machine.unwrap_or_else(|| {
            let gone = Machine::new(request.provision, Tree::new(), State::Crashed);
            gone.crash("the process that simulated it is gone");
            gone
        });
        Ok(Box::new(FakeHandle::new(machine, self.clone())))
    }

    async fn restore(&self, request: ProvisionRequest, from: RestoreRequest) -> Result<Box<dyn SandboxHandle>> {
        let tree = load(&from)?;
        self.begin(request, tree)
    }

    async fn reclaim(&self, id: &SandboxId, resources: &[Resource]) -> Result<()> {
        let machine = self.machines().remove(id);
        let mut outcome = Ok(());
        if let Some(machine) = machine {
            machine.exposed.end_all().await;
            outcome = machine.destroy();
        }
        for resource in resources {
            if let Resource::Folder { path } = resource {
                match fs::remove_dir_all(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        outcome = outcome.and(Err(Error::io("reclaim", "cannot remove the folder", error).with("path", path.display())));
                    }
                    _ => {}
                }
            }
        }
        outcome
    }
}
