use std::{
    fs, io,
    os::unix::fs::MetadataExt,
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
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{
    api::Api,
    blocking,
    boot::{OwnedBoot, SCRATCH},
    console, disk, info, jail,
    jail::Jail,
    memory, probe,
    start::PATIENCE,
    vsock,
};
use crate::machine::{Backend, Boot, Facts, Machine, Memory, agent::AgentFile, launched, process::HostProcess, shape};

/// The provider `firecracker`.
pub type FirecrackerProvider = Machine<Firecracker>;

/// There while the machine stands still because somebody wants it to.
pub(super) const PAUSED: &str = "paused";
/// How long Firecracker may take to stop or start the processors.
const CONTROL: Duration = Duration::from_secs(10);
/// A machine boots in a fraction of a second; under nested emulation on a machine that is as busy as one can be, in minutes.
const BOOT: Duration = Duration::from_secs(180);

/// The backend under [`FirecrackerProvider`].
#[derive(Clone)]
pub struct Firecracker(Arc<Host>);

struct Host {
    home: PathBuf,
    agent: Arc<AgentFile>,
    probed: OnceCell<Probe>,
}

/// Where one machine is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// Firecracker.
    pub(super) machine: HostProcess,
    /// Its jail, if it has one.
    pub(super) jail: Option<Jail>,
    /// The generation's folder.
    pub(super) generation: PathBuf,
    /// Firecracker's working directory or root.
    pub(super) folder: PathBuf,
    pub(super) limits: Vec<LimitReport>,
}

impl Firecracker {
    /// The provider, with its kernels and images in the state folder `home`.
    pub fn provider(home: &Path) -> FirecrackerProvider {
        Machine::new(Self(Arc::new(Host { home: home.to_owned(), agent: Arc::new(AgentFile::new(home)), probed: OnceCell::new() })))
    }
}

impl Place {
    fn facts(&self) -> Facts {
        let ended = launched::how_ended(&self.machine);
        if ended.is_none() && self.machine.is_alive() {
            return if self.generation.join(PAUSED).exists() { Facts::Frozen } else { Facts::Alive };
        }
        let how = ended.unwrap_or_else(|| "is gone".to_owned());
        Facts::Gone(match console::why(&self.generation) {
            Some(said) => format!("the machine {how}: {said}"),
            None => format!("the machine {how}"),
        })
    }

    async fn turn(&self, state: &str) -> Result<()> {
        Api { folder: self.folder.clone() }.patch("/vm", &json!({ "state": state }), CONTROL).await
    }

    /// Has the machine stand still.
    pub(super) async fn freeze(&self) -> Result<()> {
        let marker = self.generation.join(PAUSED);
        fs::write(&marker, "").context("freeze", || "cannot note that the machine is paused".to_owned())?;
        let stopped = self.turn("Paused").await;
        if stopped.is_err() {
            let _ = fs::remove_file(&marker);
        }
        stopped
    }

    /// Lets it go on.
    pub(super) async fn thaw(&self) -> Result<()> {
        self.turn("Resumed").await?;
        match fs::remove_file(self.generation.join(PAUSED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("thaw", || "cannot note that the machine goes on".to_owned())
            }
            _ => Ok(()),
        }
    }
}

impl Host {
    /// The writable layer of a machine that does not run. Only its own kernel may read its disk.
    fn of_stopped() -> Error {
        Error::new(ErrorKind::Conflict, "checkpoint", "the machine is stopped, and only its own kernel can read its disk")
            .with_hint("start it first: sandbar start ID")
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("remove", || format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl Backend for Firecracker {
    type Place = Place;

    fn info(&self) -> ProviderInfo {
        info::info()
    }

    async fn probe(&self) -> Probe {
        let home = self.0.home.clone();
        let probed = self.0.probed.get_or_init(|| async move {
            let looked = tokio::task::spawn_blocking(move || probe::probe(&home)).await;
            looked.unwrap_or_else(|error| Probe { usable: false, verdict: error.to_string(), hint: None })
        });
        probed.await.clone()
    }

    async fn boot(&self, boot: Boot<'_>) -> Result<Place> {
        let host = Arc::clone(&self.0);
        let boot = OwnedBoot::of(&boot);
        blocking(move || boot.run(&host.home, &host.agent)).await
    }

    async fn load(&self, boot: Boot<'_>, memory: Memory<'_>) -> Result<Place> {
        memory::load(OwnedBoot::of(&boot), memory.folder, memory.record, Arc::clone(&self.0.agent)).await
    }

    fn patience(&self) -> Duration {
        BOOT
    }

    async fn dial(&self, place: &Place) -> Result<Connection> {
        let stream = vsock::connect(&place.folder).await;
        let gone = |error| Error::new(ErrorKind::Unavailable, "dial", "the machine's agent does not take a connection").with_source(error);
        Ok(Box::new(stream.map_err(gone)?))
    }

    fn facts(&self, place: &Place) -> Facts {
        place.facts()
    }

    async fn freeze(&self, place: &Place) -> Result<()> {
        place.freeze().await
    }

    async fn thaw(&self, place: &Place) -> Result<()> {
        place.thaw().await
    }

    async fn save(&self, place: Option<&Place>, _: &Path, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
        let place = place.ok_or_else(Host::of_stopped)?;
        if options.kind == CheckpointKind::Memory {
            return memory::save(place, &options.into).await;
        }
        // Only the agent can read the disk without being in the way of its kernel: so the machine goes on for that long, and the agent has
        // everything else in it stand still meanwhile.
        place.thaw().await?;
        let (from, to) = (place.folder.clone(), options.into.clone());
        let fetched = blocking(move || disk::fetch(&from, &to)).await;
        place.freeze().await?;
        let fetched = fetched?;
        Ok(SavedCheckpoint { kind: CheckpointKind::Disk, bytes: fetched.bytes, files: fetched.files, record: Value::Null })
    }

    async fn halt(&self, place: &Place, _: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
        let (place, journal) = (place.clone(), Arc::clone(journal));
        blocking(move || place.halt(&journal)).await
    }

    async fn remove(&self, folder: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
        let (path, journal) = (folder.to_owned(), Arc::clone(journal));
        blocking(move || remove(&path).and_then(|()| journal.forget(&Resource::Folder { path }))).await
    }

    async fn usage(&self, place: &Place, folder: &Path) -> Result<SandboxStats> {
        let limit = |name: &str| place.limits.iter().find(|report| report.limit == name).and_then(|report| report.value);
        Ok(SandboxStats {
            memory_bytes: None,
            cpu_micros: None,
            pids: None,
            memory_limit_bytes: limit("memory"),
            disk_bytes: fs::metadata(folder.join(SCRATCH)).ok().map(|disk| disk.blocks() * 512),
            disk_limit_bytes: limit("disk"),
        })
    }

    fn limits(&self, place: Option<&Place>, spec: &SandboxSpec) -> Vec<LimitReport> {
        place.map_or_else(|| shape::reports(&spec.limits), |place| place.limits.clone())
    }

    async fn reclaim(&self, _: &SandboxId, resources: &[Resource]) -> Result<()> {
        let mut resources = resources.to_vec();
        // Processes hold groups, and files of the folders.
        resources.sort_by_key(|resource| match resource {
            Resource::Process { .. } => 0,
            Resource::Cgroup { .. } => 1,
            _ => 2,
        });
        let reclaim = |resource: &Resource| match resource {
            Resource::Process { pid, start_time, .. } => launched::end(&HostProcess { pid: *pid, start_time: *start_time }, PATIENCE)
                .map_err(|error| Error::io("reclaim", "cannot end the machine's process", error).with("pid", pid)),
            Resource::Cgroup { path } => jail::remove_group(path),
            Resource::Folder { path } => remove(path),
            other => Err(Error::new(ErrorKind::Internal, "reclaim", format!("firecracker makes no such resource: {other:?}"))),
        };
        blocking(move || resources.iter().map(reclaim).fold(Ok(()), Result::and)).await
    }
}
