use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind as Io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use sandbar_core::{
    AttachRequest, Context, Error, ErrorKind, Feature, FeatureSet, Isolation, Journal, Probe, ProviderInfo, ProvisionRequest, Resource,
    RestoreRequest, Result, RootSource, SandboxHandle, SandboxId, SandboxProvider, State,
};
use serde_json::json;

use super::fake_handle::FakeHandle;

/// A provider whose sandboxes are folders, so that several processes can share them. Its "agent" is a file that says `running` or `paused`;
/// whoever removes it has crashed the sandbox.
#[derive(Clone, Default)]
pub struct Fake {
    failing: Arc<Mutex<BTreeSet<&'static str>>>,
    /// How often agents, which the host sees alive, do not answer who asks for the state.
    pub silent: Arc<AtomicUsize>,
    /// How often it was tried.
    pub probes: Arc<AtomicUsize>,
}

/// One generation of a sandbox.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) saved_layers: Vec<PathBuf>,
}

impl Place {
    pub(super) fn agent(&self) -> PathBuf {
        self.folder.join("agent")
    }

    pub(super) fn layer(&self) -> PathBuf {
        self.folder.join("layer")
    }

    pub(super) fn resources(&self) -> [Resource; 2] {
        let agent = Resource::Engine { engine: "fake".into(), object: "agent".into(), name: self.agent().to_string_lossy().into_owned() };
        [Resource::Folder { path: self.folder.clone() }, agent]
    }

    /// Makes its folder.
    pub(super) fn make(&self, journal: &dyn Journal) -> Result<()> {
        let [folder, _] = self.resources();
        journal.intend(&folder)?;
        fs::create_dir_all(self.layer()).context("fake", || "cannot make the layer".into())?;
        journal.step("fake.folder");
        Ok(())
    }

    /// Starts its agent, telling the journal before.
    pub(super) fn boot(&self, journal: &dyn Journal) -> Result<()> {
        let [_, agent] = self.resources();
        journal.intend(&agent)?;
        fs::write(self.agent(), "running").context("fake", || "cannot start the agent".into())?;
        journal.step("fake.agent");
        Ok(())
    }

    /// Ends the agent; with `all`, the layer goes too.
    pub(super) fn halt(&self, journal: &dyn Journal, all: bool) -> Result<()> {
        let [folder, agent] = self.resources();
        remove(&self.agent())?;
        journal.forget(&agent)?;
        if all {
            remove(&self.folder)?;
            journal.forget(&folder)?;
        }
        Ok(())
    }
}

pub(super) fn remove(path: &Path) -> Result<()> {
    let done = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match done {
        Err(error) if error.kind() == Io::NotFound => Ok(()),
        done => done.context("fake", || format!("cannot remove {}", path.display())),
    }
}

impl Fake {
    /// What it claims: no image, so that no test depends on the host's programs.
    pub fn features() -> FeatureSet {
        let images = [Feature::HostImage, Feature::LayeredImage];
        Feature::ALL.iter().copied().filter(|feature| !images.contains(feature)).collect()
    }

    /// What fails from now on: `provision`, `stop`, `restore`, `destroy`, `reclaim`, `probe` ….
    pub fn failing(&self) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.failing.lock().unwrap()
    }

    /// Whether an agent says nothing this time.
    pub(super) fn says_nothing(&self) -> bool {
        self.silent.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    pub(super) fn check(&self, what: &'static str) -> Result<()> {
        match self.failing().contains(what) {
            true => Err(Error::new(ErrorKind::Unavailable, "fake", format!("{what} fails"))),
            false => Ok(()),
        }
    }

    fn make(&self, request: ProvisionRequest, root: RootSource) -> Result<Box<dyn SandboxHandle>> {
        request.journal.step("fake.begun");
        let place = Place { folder: request.folder.join("g1"), saved_layers: root.saved_layers };
        place.make(request.journal.as_ref())?;
        place.boot(request.journal.as_ref())?;
        // A provider that fails has undone what it did; this one leaves it, as a crashed one would.
        self.check("provision")?;
        request.journal.commit(&json!({ "generation": 1 }), State::Running)?;
        request.journal.step("fake.committed");
        Ok(Box::new(FakeHandle::new(self.clone(), request, Some(1), place)))
    }
}

#[async_trait]
impl SandboxProvider for Fake {
    fn info(&self) -> ProviderInfo {
        ProviderInfo {
            name: "fake".into(),
            isolation: Isolation::Namespaces,
            features: Self::features(),
            description: "folders".into(),
            notes: vec!["made of folders".into()],
        }
    }

    async fn probe(&self) -> Probe {
        self.probes.fetch_add(1, Ordering::SeqCst);
        match self.check("probe") {
            Ok(()) => Probe { usable: true, verdict: "folders can be made".into(), hint: None },
            Err(_) => Probe { usable: false, verdict: "no folders here".into(), hint: Some("mend it".into()) },
        }
    }

    async fn provision(&self, request: ProvisionRequest) -> Result<Box<dyn SandboxHandle>> {
        let root = request.root.clone();
        self.make(request, root)
    }

    async fn attach(&self, request: AttachRequest) -> Result<Box<dyn SandboxHandle>> {
        let AttachRequest { provision, record } = request;
        let generation = record["generation"].as_u64();
        let bad = || Error::new(ErrorKind::Corrupt, "fake", "not a record of mine");
        let place = Place {
            folder: provision.folder.join(format!("g{}", generation.ok_or_else(bad)?)),
            saved_layers: provision.root.saved_layers.clone(),
        };
        Ok(Box::new(FakeHandle::new(self.clone(), provision, generation, place)))
    }

    async fn restore(&self, request: ProvisionRequest, from: RestoreRequest) -> Result<Box<dyn SandboxHandle>> {
        self.check("fork")?;
        self.make(request, from.root)
    }

    async fn reclaim(&self, _: &SandboxId, resources: &[Resource]) -> Result<()> {
        self.check("reclaim")?;
        for resource in resources {
            match resource {
                Resource::Folder { path } => remove(path)?,
                Resource::Engine { name, .. } => remove(Path::new(name))?,
                _ => {}
            }
        }
        Ok(())
    }
}
