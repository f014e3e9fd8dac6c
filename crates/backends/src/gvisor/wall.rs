use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sandbar_core::{
    CheckpointKind, CheckpointOptions, Connection, Context, Error, ErrorKind, Journal, LimitReport, Probe, ProviderInfo, Resource, Result,
    SandboxId, SandboxSpec, SandboxStats, SavedCheckpoint,
};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{
    GvisorOptions, Place,
    boot::OwnedBoot,
    engine::{Engine, OPERATION},
    info, limits, memory,
    place::end_process,
    probe, wire,
};
use crate::{
    host::{
        cgroup, folder, kernel, lingering,
        reclaim::reclaim,
        unsaved,
        worker::{self, blocking},
    },
    machine::{
        Backend, Boot, Facts, Machine, Memory,
        agent::AgentFile,
        process::{HostProcess, wait_for_exit},
    },
};

/// The provider `gvisor`.
pub type GvisorProvider = Machine<Gvisor>;

/// How long `runsc`, the sentry and the agent may take to come up, on a busy machine.
pub(super) const BOOT: Duration = Duration::from_secs(20);
/// How long pausing or resuming may take.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a process that is ending may take to have ended.
const MOMENT: Duration = Duration::from_millis(200);

/// The backend under [`GvisorProvider`].
#[derive(Clone)]
pub struct Gvisor(Arc<Host>);

struct Host {
    agent: AgentFile,
    home: PathBuf,
    options: GvisorOptions,
    probed: OnceCell<Probe>,
}

impl Gvisor {
    /// The provider, with its agent in the state folder `home`.
    pub fn provider(home: &Path, options: GvisorOptions) -> GvisorProvider {
        Machine::new(Self::new(home, options))
    }

    /// The wall alone.
    pub fn new(home: &Path, options: GvisorOptions) -> Self {
        Self(Arc::new(Host { agent: AgentFile::new(home), home: home.to_owned(), options, probed: OnceCell::new() }))
    }

    fn engine(&self) -> Result<Engine> {
        Engine::find(&self.0.options)
    }

    async fn bring_up(&self, boot: Boot<'_>, image: Option<PathBuf>) -> Result<Place> {
        let host = Arc::clone(&self.0);
        let engine = self.engine()?;
        let Boot { id, spec, root, folder, generation, ids, lifetime, journal } = boot;
        let mut boot = OwnedBoot {
            engine,
            id: id.clone(),
            spec: spec.clone(),
            root: root.clone(),
            folder: folder.to_owned(),
            generation,
            ids,
            lifetime,
            journal: Arc::clone(journal),
            by_descriptor: kernel::takes_detached_layers(),
            agent: PathBuf::new(),
            image,
            patience: BOOT,
        };
        worker::run_and_drop(move || {
            let mut left = Vec::new();
            let path = host.agent.path().map(Path::to_owned);
            let place = path.and_then(|path| {
                boot.agent = path;
                boot.run(&mut left)
            });
            (place, left)
        })
        .await?
    }

    /// Lets a sandbox go on whose agent somebody has made quiet, or has paused, to save it, and who was killed before it went on.
    async fn recover(&self, place: &Place) -> Result<()> {
        let (wall, place) = (self.clone(), place.clone());
        worker::run(move || {
            // Refused when it was not paused yet, or not any more.
            let _ = wall.tell(&place, "resume");
            let wake = || wire::wake(&place.process).context("gvisor", || "cannot wake the agent".to_owned());
            place.note().settle(wire::is_there(&place.process), wake)
        })
        .await?
    }

    /// Asks `runsc` to pause or to resume.
    fn tell(&self, place: &Place, verb: &'static str) -> Result<()> {
        let engine = self.engine()?;
        let first = hold(&place.process)?;
        let arguments = |_| vec![verb.to_owned(), place.id.clone()];
        engine.ask(&first, None, arguments, PAUSE)?.success(OPERATION, "runsc refuses").map(drop)
    }
}

/// Holds a sandbox's first process.
pub(super) fn hold(process: &HostProcess) -> Result<std::os::fd::OwnedFd> {
    let held = process.open().context("gvisor", || "cannot hold the sandbox's first process".to_owned())?;
    held.ok_or_else(|| Error::new(ErrorKind::Unavailable, "gvisor", "the sandbox's first process is gone"))
}

#[async_trait]
impl Backend for Gvisor {
    type Place = Place;

    // A kernel in user space answers late on a busy machine, and what commands said last would be lost.
    const SETTLING: Duration = Duration::from_secs(15);

    fn info(&self) -> ProviderInfo {
        info::info(self.engine().ok().as_ref())
    }

    async fn probe(&self) -> Probe {
        let (home, options) = (self.0.home.clone(), self.0.options.clone());
        let probed = self.0.probed.get_or_init(|| async move {
            let found = worker::run(move || probe::probe(&home, &options)).await;
            found.unwrap_or_else(|error| Probe { usable: false, verdict: error.chain(), hint: None })
        });
        probed.await.clone()
    }

    async fn boot(&self, boot: Boot<'_>) -> Result<Place> {
        self.bring_up(boot, None).await
    }

    async fn load(&self, boot: Boot<'_>, memory: Memory<'_>) -> Result<Place> {
        let (engine, record) = (self.engine()?, memory.record.clone());
        blocking(move || memory::check(&engine, &record)).await?;
        self.bring_up(boot, Some(memory.folder.join(memory::MEMORY))).await
    }

    fn patience(&self) -> Duration {
        BOOT
    }

    async fn dial(&self, place: &Place) -> Result<Connection> {
        let note = place.note();
        let was_left = note.is_orphan();
        if was_left {
            self.recover(place).await?;
        }
        place.wait_for_memory().await;
        match note.reach(was_left, || place.process.is_alive(), || wire::connect(&place.process)).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => {
                // The listener was there before anybody could ask: it is gone because the agent is ending, which takes another moment.
                let process = place.process;
                let wait = move || process.open().map(|held| held.map(|held| wait_for_exit(&held, MOMENT)));
                let _ = worker::run(wait).await;
                Err(Error::new(ErrorKind::Unavailable, "dial", "the agent does not listen").with_source(error))
            }
        }
    }

    fn facts(&self, place: &Place) -> Facts {
        place.facts()
    }

    async fn freeze(&self, place: &Place) -> Result<()> {
        let (wall, place) = (self.clone(), place.clone());
        let freeze = move || {
            if place.groups.can_freeze() {
                return cgroup::freeze(&place.groups).context("freeze", || "cannot freeze the sandbox".to_owned());
            }
            place.note_pause()?;
            wall.tell(&place, "pause").inspect_err(|_| place.forget_pause())
        };
        worker::run(freeze).await?
    }

    async fn thaw(&self, place: &Place) -> Result<()> {
        let (wall, place) = (self.clone(), place.clone());
        let thaw = move || {
            if place.groups.can_freeze() {
                return cgroup::thaw(&place.groups).context("thaw", || "cannot thaw the sandbox".to_owned());
            }
            if place.is_paused() {
                wall.tell(&place, "resume")?;
                place.forget_pause();
            }
            Ok(())
        };
        worker::run(thaw).await?
    }

    fn notes_saves_in<'place>(&self, place: &'place Place) -> Option<&'place Path> {
        Some(&place.folder)
    }

    fn check_memory(&self, spec: &SandboxSpec) -> Result<()> {
        unsaved::refuse_network(spec)
    }

    async fn save(&self, place: Option<&Place>, folder: &Path, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
        let (folder, place, options) = (folder.to_owned(), place.cloned(), options.clone());
        match (options.kind, place) {
            (CheckpointKind::Disk, place) => {
                let save = move || folder::save(&folder, place.is_some(), &options.into);
                let (bytes, files) = blocking(save).await?;
                Ok(SavedCheckpoint { kind: CheckpointKind::Disk, bytes, files, record: Value::Null })
            }
            (CheckpointKind::Memory, Some(place)) => {
                let engine = self.engine()?;
                blocking(move || memory::save(&engine, &place, &folder, &options.into)).await
            }
            (CheckpointKind::Memory, None) => {
                Err(Error::new(ErrorKind::Conflict, "checkpoint", "a sandbox that is stopped has no memory to save"))
            }
        }
    }

    async fn halt(&self, place: &Place, _: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
        let (place, journal) = (place.clone(), Arc::clone(journal));
        let folder = place.folder.clone();
        let halted = worker::run(move || place.halt(&journal)).await?;
        lingering::drop_later(folder);
        halted
    }

    async fn remove(&self, folder: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
        folder::remove_told(folder.to_owned(), Arc::clone(journal)).await
    }

    async fn usage(&self, place: &Place, folder: &Path) -> Result<SandboxStats> {
        let (place, folder) = (place.clone(), folder.to_owned());
        blocking(move || Ok(place.stats(folder::occupied(&folder)?))).await
    }

    fn limits(&self, place: Option<&Place>, spec: &SandboxSpec) -> Vec<LimitReport> {
        place.map_or_else(|| limits::reports(&spec.limits), |place| place.limits.clone())
    }

    async fn reclaim(&self, _: &SandboxId, resources: &[Resource]) -> Result<()> {
        reclaim(resources, end_process).await
    }
}
