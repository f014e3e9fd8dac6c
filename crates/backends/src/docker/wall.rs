use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use sandbar_core::{
    CheckpointKind, CheckpointOptions, Connection, Error, ErrorKind, Isolation, Journal, LimitReport, Needs, Probe, ProviderInfo, Resource,
    Result, SandboxId, SandboxSpec, SandboxStats, SavedCheckpoint,
};
use serde_json::Value;

use super::{
    collect,
    endpoint::{self, Endpoint},
    engine::Engine,
    error::OPERATION,
    fetch, freezer,
    image::blocking,
    info, layer, memory,
    object::{self, Marker},
    owner::Home,
    place::Place,
    usage,
};
use crate::{
    host::unsaved,
    machine::{Backend, Boot, Facts, Machine, Memory, agent::AgentFile, process::HostProcess, saving::SaveNote},
};

/// How long the agent may take to answer once its container runs: some runtimes start a kernel first.
const AGENT_PATIENCE: Duration = Duration::from_secs(20);

/// The provider `docker`.
pub type DockerProvider = Machine<Docker>;

/// The backend under [`DockerProvider`].
#[derive(Clone)]
pub struct Docker(pub(super) Arc<Host>);

/// What the clones of the backend share.
pub(super) struct Host {
    pub(super) agent: AgentFile,
    pub(super) home: PathBuf,
    /// Where the engine is, if that was configured.
    configured: Option<String>,
    engines: Mutex<HashMap<Endpoint, Engine>>,
    /// What keeps the sandboxes alive that end with this process, by container.
    held: Mutex<HashMap<String, object::Input>>,
}

impl Docker {
    /// The provider, with its agent in the state folder `home`, on the engine at `engine` (in the form of `DOCKER_HOST`), or on the one that
    /// is found.
    pub fn provider(home: &Path, engine: Option<&str>) -> DockerProvider {
        Machine::new(Self(Arc::new(Host {
            agent: AgentFile::new(home),
            home: home.to_owned(),
            configured: engine.map(str::to_owned),
            engines: Mutex::default(),
            held: Mutex::default(),
        })))
    }
}

impl Host {
    /// The engine for new sandboxes.
    pub(super) fn engine(&self) -> Result<Engine> {
        self.at(endpoint::find(self.configured.as_deref())?)
    }

    /// The engine that something is on.
    pub(super) fn engine_at(&self, address: &str) -> Result<Engine> {
        self.at(Endpoint::parse(address)?)
    }

    fn at(&self, endpoint: Endpoint) -> Result<Engine> {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = engines.get(&endpoint) {
            return Ok(engine.clone());
        }
        let engine = Engine::at(endpoint.clone())?;
        engines.insert(endpoint, engine.clone());
        Ok(engine)
    }

    pub(super) fn held(&self) -> MutexGuard<'_, HashMap<String, object::Input>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the first process of a container, and with it every other, and waits until the engine knows.
    async fn halt(&self, place: &Place, journal: &Arc<dyn Journal>) -> Result<()> {
        SaveNote::of(&place.folder).remove();
        let engine = self.engine_at(&place.engine)?;
        let frozen = self.facts(place) == Facts::Frozen;
        if let Some(process) = place.process {
            // A frozen one is ended by the signal when it is thawed, before it runs any code of its own.
            let sent = process.signal(rustix::process::Signal::KILL);
            sent.map_err(|error| Error::io("halt", "cannot end the sandbox's first process", error).with("pid", process.pid))?;
            // A kernel in user space does not wait for that, and is gone when the engine wants to thaw it.
            let thawed = if frozen { freezer::thaw(&engine, place).await } else { Ok(()) };
            end(process).await.map_err(|error| thawed.err().unwrap_or(error))?;
        }
        let told = object::end(&engine, &place.name).await;
        match (told, place.process) {
            // Everything that ran is gone; the engine learns of it when it is back.
            (Err(error), Some(_)) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut) => {}
            (told, _) => told?,
        }
        self.held().remove(&place.name);
        place.process.map_or(Ok(()), |process| journal.forget(&process.resource("agent")))
    }

    fn facts(&self, place: &Place) -> Facts {
        match place.seen() {
            Some(Facts::Gone(reason)) => Facts::Gone(self.why(place).unwrap_or(reason)),
            Some(facts) => facts,
            None => match self.engine_at(&place.engine).and_then(|engine| object::state_now(&engine, &place.name)) {
                Ok(said) => freezer::true_state(&place.folder, said),
                // Nobody can tell but ourselves; the agent may answer.
                Err(_) => freezer::true_state(&place.folder, Facts::Alive),
            },
        }
    }

    /// Why a container ended, if the engine knows.
    fn why(&self, place: &Place) -> Option<String> {
        match object::state_now(&self.engine_at(&place.engine).ok()?, &place.name).ok()? {
            Facts::Gone(reason) => Some(reason),
            Facts::Alive | Facts::Frozen => None,
        }
    }

    async fn reclaim(&self, resource: &Resource) -> Result<()> {
        match resource {
            Resource::Process { pid, start_time, .. } => end(HostProcess { pid: *pid, start_time: *start_time }).await,
            Resource::Engine { engine, name, .. } => object::remove(&self.engine_at(engine)?, &Home::open(&self.home)?, name).await,
            Resource::Folder { path } => {
                let path = path.clone();
                blocking(move || object::remove_folder(&path)).await
            }
            other => Err(Error::new(ErrorKind::Internal, "reclaim", format!("docker makes no such resource: {other:?}"))),
        }
    }
}

/// Ends a process at once, and waits for that.
async fn end(process: HostProcess) -> Result<()> {
    let ended = blocking(move || {
        process
            .kill(object::PATIENCE)
            .map_err(|error| Error::io("halt", "cannot end the sandbox's first process", error).with("pid", process.pid))
    });
    ended.await
}

#[async_trait]
impl Backend for Docker {
    type Place = Place;

    // A kernel in user space answers late on a busy machine, and what commands said last would be lost.
    const SETTLING: Duration = Duration::from_secs(15);

    fn info(&self) -> ProviderInfo {
        info::info(&self.0)
    }

    fn isolation(&self, spec: &SandboxSpec) -> Isolation {
        info::isolation(&self.0, spec)
    }

    async fn probe(&self) -> Probe {
        info::probe(&self.0).await
    }

    async fn boot(&self, boot: Boot<'_>) -> Result<Place> {
        self.0.boot(boot).await
    }

    async fn load(&self, boot: Boot<'_>, memory: Memory<'_>) -> Result<Place> {
        self.0.load(boot, memory).await
    }

    fn patience(&self) -> Duration {
        AGENT_PATIENCE
    }

    async fn dial(&self, place: &Place) -> Result<Connection> {
        let note = SaveNote::of(&place.folder);
        let was_left = note.is_orphan();
        if was_left {
            memory::settle(&note, place)?;
        }
        let is_alive = || !matches!(place.seen(), Some(Facts::Gone(_)));
        note.reach(was_left, is_alive, || object::dial(&place.folder)).await
    }

    fn notes_saves_in<'place>(&self, place: &'place Place) -> Option<&'place Path> {
        Some(&place.folder)
    }

    fn facts(&self, place: &Place) -> Facts {
        self.0.facts(place)
    }

    async fn freeze(&self, place: &Place) -> Result<()> {
        freezer::freeze(&self.0.engine_at(&place.engine)?, place).await
    }

    async fn thaw(&self, place: &Place) -> Result<()> {
        freezer::thaw(&self.0.engine_at(&place.engine)?, place).await
    }

    fn check_memory(&self, spec: &SandboxSpec) -> Result<()> {
        match info::isolation(&self.0, spec) {
            Isolation::UserKernel => unsaved::refuse_network(spec),
            _ => Ok(()),
        }
    }

    async fn save(&self, place: Option<&Place>, folder: &Path, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
        if options.kind == CheckpointKind::Memory {
            let place = place.ok_or_else(|| Error::new(ErrorKind::Conflict, "checkpoint", "a stopped sandbox has no memory"))?;
            return memory::save(&self.0.engine_at(&place.engine)?, place, options).await;
        }
        let marker =
            Marker::read(folder)?.ok_or_else(|| Error::new(ErrorKind::Corrupt, OPERATION, "nothing says which container this is"))?;
        let upper = object::upper(&self.0.engine_at(&marker.engine)?, &marker.name).await?;
        let into = options.into.clone();
        let (bytes, files) = blocking(move || layer::save(&upper, &into)).await?;
        Ok(SavedCheckpoint { kind: CheckpointKind::Disk, bytes, files, record: Value::Null })
    }

    async fn halt(&self, place: &Place, _: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
        self.0.halt(place, journal).await
    }

    async fn remove(&self, folder: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
        if let Some(marker) = Marker::read(folder)? {
            object::remove(&self.0.engine_at(&marker.engine)?, &Home::open(&self.0.home)?, &marker.name).await?;
            self.0.held().remove(&marker.name);
            journal.forget(&marker.resource())?;
        }
        let (path, journal) = (folder.to_owned(), Arc::clone(journal));
        blocking(move || {
            object::remove_folder(&path)?;
            journal.forget(&Resource::Folder { path })
        })
        .await
    }

    async fn usage(&self, place: &Place, _: &Path) -> Result<SandboxStats> {
        usage::usage(&self.0.engine_at(&place.engine)?, place).await
    }

    fn limits(&self, place: Option<&Place>, spec: &SandboxSpec) -> Vec<LimitReport> {
        place.map_or_else(|| info::limits(&self.0, spec), |place| place.limits.clone())
    }

    async fn reclaim(&self, _: &SandboxId, resources: &[Resource]) -> Result<()> {
        let mut resources = resources.to_vec();
        // Containers use folders, and processes are in containers.
        resources.sort_by_key(|resource| match resource {
            Resource::Process { .. } => 0,
            Resource::Engine { .. } => 1,
            _ => 2,
        });
        let mut outcome = Ok(());
        for resource in &resources {
            outcome = outcome.and(self.0.reclaim(resource).await);
        }
        outcome
    }

    async fn collect(&self, needs: &(dyn Fn() -> Result<Needs> + Send + Sync)) -> Result<Vec<String>> {
        // Where sandbar never used an engine, none is asked.
        if !Home::exists(&self.0.home) {
            return Ok(Vec::new());
        }
        let Ok(engine) = self.0.engine() else { return Ok(Vec::new()) };
        collect::collect(&engine, &Home::open(&self.0.home)?, needs).await
    }

    async fn fetch_image(&self, reference: &str, into: &Path, said: &(dyn for<'s> Fn(&'s str) + Send + Sync)) -> Result<bool> {
        fetch::fetch(&self.0.engine()?, reference, into, said).await.map(|()| true)
    }
}
