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
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{boot::OwnedBoot, info, limits, probe, stopper};
use crate::host::{
    cgroup::{self, Groups},
    disk, folder, kernel, lingering,
    offspring::{self, Life},
    reclaim::reclaim,
    syscall::Ended,
    worker::{self, blocking},
};
use crate::machine::{
    Backend, Boot, Facts, Machine,
    agent::AgentFile,
    process::{HostProcess, wait_for_exit},
    socket::{AGENT_SOCKET, connect_in},
};

/// The provider `container`.
pub type ContainerProvider = Machine<Container>;

/// How long the first process may take to end once it is killed, and everything with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a process that is ending may take to have ended.
const MOMENT: Duration = Duration::from_millis(200);

/// The backend under [`ContainerProvider`].
#[derive(Clone)]
pub struct Container(Arc<Host>);

struct Host {
    agent: AgentFile,
    home: PathBuf,
    /// Until it is known, whoever asks has it tried again.
    probed: OnceCell<Probe>,
}

/// Where one agent runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// The first process of the sandbox's PID namespace.
    pub(super) process: HostProcess,
    /// The generation's folder, with the socket.
    pub(super) folder: PathBuf,
    pub(super) groups: Groups,
    /// As they were set up.
    pub(super) limits: Vec<LimitReport>,
}

impl Container {
    /// The provider, with its agent in the state folder `home`.
    pub fn provider(home: &Path) -> ContainerProvider {
        Machine::new(Self::new(home))
    }

    /// The wall alone.
    pub fn new(home: &Path) -> Self {
        Self(Arc::new(Host { agent: AgentFile::new(home), home: home.to_owned(), probed: OnceCell::new() }))
    }
}

impl Place {
    fn facts(&self) -> Facts {
        if let Life::Gone(ended) = offspring::life(&self.process) {
            return Facts::Gone(self.why(ended));
        }
        if cgroup::is_frozen(&self.groups) || (!self.groups.can_freeze() && stopper::is_stopped(&self.process)) {
            Facts::Frozen
        } else {
            Facts::Alive
        }
    }

    fn why(&self, ended: Option<Ended>) -> String {
        let out_of_memory = if self.groups.ran_out_of_memory() { " (the sandbox ran out of memory)" } else { "" };
        match ended {
            Some(Ended::Signalled(signal)) => format!("the agent was ended by signal {signal}{out_of_memory}"),
            Some(Ended::Exited(code)) => format!("the agent exited with code {code}"),
            None => format!("the agent's process is gone{out_of_memory}"),
        }
    }

    fn halt(&self, journal: &Arc<dyn Journal>) -> Result<()> {
        // A disk of its own is not shared with anybody, and its device must be given back.
        if disk::image(&self.folder).is_none() {
            lingering::hold(&self.folder, &self.process, "");
        }
        // A v1 freezer holds even the killed; in a frozen v2 group a signal to kill works.
        if cgroup::is_frozen(&self.groups) {
            let _ = cgroup::thaw(&self.groups);
        }
        end_process(&self.process)?;
        journal.forget(&self.process.resource("agent"))?;
        self.groups.release(journal)?;
        disk::release(&self.folder, journal)?;
        let _ = std::fs::remove_file(self.folder.join(AGENT_SOCKET));
        Ok(())
    }

    fn stats(&self, disk: u64) -> SandboxStats {
        SandboxStats {
            memory_bytes: self.groups.memory(),
            cpu_micros: self.groups.cpu_micros(),
            pids: self.groups.pids(),
            memory_limit_bytes: self.limit("memory"),
            disk_bytes: Some(disk),
            disk_limit_bytes: self.limit("disk"),
            ..SandboxStats::default()
        }
    }

    fn limit(&self, name: &str) -> Option<u64> {
        self.limits.iter().find(|report| report.limit == name)?.value
    }
}

/// Ends the first process of a PID namespace, and with it every other, and waits until they are gone.
fn end_process(process: &HostProcess) -> Result<()> {
    process.kill(PATIENCE).map_err(|error| Error::io("halt", "cannot end the sandbox's first process", error).with("pid", process.pid))?;
    offspring::forget(process);
    Ok(())
}

#[async_trait]
impl Backend for Container {
    type Place = Place;

    fn info(&self) -> ProviderInfo {
        info::info()
    }

    async fn probe(&self) -> Probe {
        let home = self.0.home.clone();
        let probed = self.0.probed.get_or_try_init(|| async move {
            let found = worker::run(move || probe::probe(&home)).await;
            found.unwrap_or_else(|error| Ok(Probe { usable: false, verdict: error.chain(), hint: None }))
        });
        probed.await.cloned().unwrap_or_else(|late| late)
    }

    async fn boot(&self, boot: Boot<'_>) -> Result<Place> {
        let host = Arc::clone(&self.0);
        let Boot { id, spec, root, folder, generation, ids, lifetime, journal } = boot;
        let mut boot = OwnedBoot {
            id: id.clone(),
            spec: spec.clone(),
            root: root.clone(),
            folder: folder.to_owned(),
            generation,
            ids,
            lifetime,
            journal: Arc::clone(journal),
            by_descriptor: kernel::takes_detached_layers(),
            agent: None,
        };
        worker::run_and_drop(move || {
            let mut left = Vec::new();
            let path = host.agent.path().map(Path::to_owned);
            let place = path.and_then(|path| {
                boot.agent = Some(path);
                boot.run(&mut left)
            });
            (place, left)
        })
        .await?
    }

    async fn dial(&self, place: &Place) -> Result<Connection> {
        match connect_in(&place.folder, AGENT_SOCKET).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => {
                // The listener was there before the agent: it is gone because the agent is ending, which takes another moment.
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
        let place = place.clone();
        let freeze = move || if place.groups.can_freeze() { cgroup::freeze(&place.groups) } else { stopper::stop(place.process) };
        worker::run(freeze).await?.context("freeze", || "cannot freeze the sandbox".to_owned())
    }

    async fn thaw(&self, place: &Place) -> Result<()> {
        let thawed = if place.groups.can_freeze() { cgroup::thaw(&place.groups) } else { stopper::go_on(place.process) };
        thawed.context("thaw", || "cannot thaw the sandbox".to_owned())
    }

    async fn save(&self, place: Option<&Place>, folder: &Path, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
        if options.kind != CheckpointKind::Disk {
            return Err(Error::new(ErrorKind::Unsupported, "checkpoint", "a container saves its disk only"));
        }
        let (folder, is_running, into) = (folder.to_owned(), place.is_some(), options.into.clone());
        let (bytes, files) = blocking(move || folder::save(&folder, is_running, &into)).await?;
        Ok(SavedCheckpoint { kind: CheckpointKind::Disk, bytes, files, record: Value::Null })
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

    async fn end(&self, place: &Place, folder: &Path, journal: &Arc<dyn Journal>, halted: &'static str) -> Result<()> {
        let (place, path, journal) = (place.clone(), folder.to_owned(), Arc::clone(journal));
        worker::run_and_drop(move || {
            let ended = place.halt(&journal);
            journal.step(halted);
            (ended.and(folder::remove_and_forget(&path, &journal)), lingering::take(&path))
        })
        .await?
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
