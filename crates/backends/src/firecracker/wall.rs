use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use sandbar_core::{
    CheckpointKind, CheckpointOptions, Connection, Context, Error, ErrorKind, Journal, LimitReport, Probe, ProviderInfo, Resource, Result,
    SandboxId, SandboxSpec, SandboxStats, SavedCheckpoint,
};
use sandbar_protocol::{AgentConfig, GuestWire};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    FirecrackerOptions,
    api::Api,
    boot, disk,
    engine::{self, Engine},
    info,
    jail::{self, Jail},
    memory, probe,
    room::Room,
    start, vsock,
};
use crate::{
    kvm::Noted,
    machine::{Backend, Boot, Facts, Machine, Memory, TemplateKey, agent::AgentFile, process::HostProcess},
    vmm::{self, OwnedBoot, SCRATCH, Shares, Sharing, blocking, processor, remove},
};

/// The provider `firecracker`.
pub type FirecrackerProvider = Machine<Firecracker>;

/// There while the machine stands still because somebody wants it to.
pub(super) const PAUSED: &str = "paused";
/// How long Firecracker may take to stop or start the processors.
pub(super) const CONTROL: Duration = Duration::from_secs(10);
/// A machine boots in a fraction of a second; under nested emulation on a machine that is as busy as one can be, in minutes.
pub(super) const BOOT: Duration = Duration::from_secs(180);

/// The backend under [`FirecrackerProvider`].
#[derive(Clone)]
pub struct Firecracker(Arc<Host>);

struct Host {
    home: PathBuf,
    agent: AgentFile,
    kvm: Noted,
    options: FirecrackerOptions,
}

impl Host {
    /// What makes a machine here.
    fn engine(&self) -> Result<Engine> {
        engine::require_kvm(&self.kvm.get()).and_then(|()| Engine::find(&self.options))
    }

    fn template(&self, boot: &OwnedBoot) -> Result<Option<TemplateKey>> {
        let engine = self.engine()?;
        let bound = vec![("processor", processor()), ("host kernel", memory::kernel())];
        vmm::template(&self.home, vmm::Engine { provider: info::NAME, program: &engine.program, bound }, &self.agent, boot)
    }
}

/// Where one machine is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// Firecracker.
    pub(super) machine: HostProcess,
    /// The process that keeps what the guest prints, and ends the machine with its owner.
    pub(super) console: HostProcess,
    /// What Firecracker sees of this host's files.
    pub(super) room: Room,
    /// Its jail, if it has one.
    pub(super) jail: Option<Jail>,
    /// The generation's folder.
    pub(super) generation: PathBuf,
    pub(super) limits: Vec<LimitReport>,
    /// Those that serve volumes.
    #[serde(default, skip_serializing_if = "Shares::is_empty")]
    pub(super) shares: Shares,
}

impl Firecracker {
    /// The provider, with its kernels and images in the state folder `home`.
    pub fn provider(home: &Path, options: &FirecrackerOptions) -> FirecrackerProvider {
        let (agent, kvm) = (AgentFile::new(home), Noted::new(home));
        Machine::new(Self(Arc::new(Host { home: home.to_owned(), agent, kvm, options: options.clone() })))
    }

    /// How a machine's volumes come to it.
    fn sharing(&self, place: &Place) -> Sharing {
        let (host, room) = (Arc::clone(&self.0), place.room.folder.clone());
        Sharing {
            connect: Box::new(move || vsock::connect_blocking_in(&room)),
            agent: Box::new(move || host.agent.path().map(Path::to_owned)),
            folder: place.generation.clone(),
        }
    }
}

impl Place {
    fn facts(&self) -> Facts {
        let Some(how) = vmm::how_ended(&self.machine) else {
            return if self.generation.join(PAUSED).exists() { Facts::Frozen } else { Facts::Alive };
        };
        // A machine whose guest restarts exits with 0, which says nothing.
        Facts::Gone(match self.said() {
            Some(said) => format!("the machine {how}: {said}"),
            None => format!("the machine {how}"),
        })
    }

    fn turn(&self, state: &str) -> Result<()> {
        Api(&self.room.folder).patch("/vm", &json!({ "state": state }), CONTROL)
    }

    /// Has the machine stand still. Blocks.
    pub(super) fn freeze(&self) -> Result<()> {
        let marker = self.generation.join(PAUSED);
        fs::write(&marker, "").context("freeze", || "cannot note that the machine is paused".to_owned())?;
        let stopped = self.turn("Paused");
        if stopped.is_err() {
            let _ = fs::remove_file(&marker);
        }
        stopped
    }

    /// Lets it go on. Blocks.
    pub(super) fn thaw(&self) -> Result<()> {
        self.turn("Resumed")?;
        match fs::remove_file(self.generation.join(PAUSED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("thaw", || "cannot note that the machine goes on".to_owned())
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Backend for Firecracker {
    type Place = Place;

    const SETTLING: Duration = vmm::SETTLING;

    fn info(&self) -> ProviderInfo {
        info::info(&self.0.options)
    }

    async fn probe(&self) -> Probe {
        let host = Arc::clone(&self.0);
        let looked = tokio::task::spawn_blocking(move || probe::probe(&host.home, &host.kvm, &host.options)).await;
        looked.unwrap_or_else(|error| Probe { usable: false, verdict: error.to_string(), hint: None })
    }

    async fn boot(&self, boot: Boot<'_>) -> Result<Place> {
        let (host, boot) = (Arc::clone(&self.0), OwnedBoot::of(&boot));
        blocking(move || boot::run(&boot, &host.home, &host.engine()?, &host.agent)).await
    }

    async fn template(&self, boot: &Boot<'_>) -> Result<Option<TemplateKey>> {
        let (host, boot) = (Arc::clone(&self.0), OwnedBoot::of(boot));
        blocking(move || host.template(&boot)).await
    }

    fn template_config(&self, boot: &Boot<'_>) -> Option<AgentConfig> {
        Some(OwnedBoot::of(boot).later_config(GuestWire::Vsock))
    }

    async fn load(&self, boot: Boot<'_>, memory: Memory<'_>) -> Result<Place> {
        let (host, boot) = (Arc::clone(&self.0), OwnedBoot::of(&boot));
        let (saved, record) = (memory.folder.to_owned(), memory.record.clone());
        blocking(move || {
            vmm::check_volumes(&boot.spec.volumes)?;
            memory::load((&saved, &record), &boot, &host.engine()?, &host.agent)
        })
        .await
    }

    fn patience(&self) -> Duration {
        BOOT
    }

    async fn furnish(&self, place: &mut Place, spec: &SandboxSpec, journal: &Arc<dyn Journal>) -> Result<()> {
        let done;
        (place.shares, done) = Shares::furnish(spec, self.sharing(place), journal).await;
        done
    }

    fn check_memory(&self, spec: &SandboxSpec) -> Result<()> {
        vmm::refuse_memory(spec)
    }

    async fn dial(&self, place: &Place) -> Result<Connection> {
        if place.shares.has_lost_one(&place.generation) && place.machine.is_alive() {
            place.shares.serve_again(self.sharing(place)).await;
        }
        let stream = vsock::connect(&place.room.folder).await;
        let gone = |error| Error::new(ErrorKind::Unavailable, "dial", "the machine's agent does not take a connection").with_source(error);
        Ok(Box::new(stream.map_err(gone)?))
    }

    fn most_connections(&self) -> Option<u32> {
        Some(vsock::MOST_LEAVING)
    }

    fn ends_one_way(&self) -> bool {
        // Firecracker takes the end of what the host says for the end of the connection.
        false
    }

    fn notes_saves_in<'place>(&self, place: &'place Place) -> Option<&'place Path> {
        Some(&place.generation)
    }

    fn facts(&self, place: &Place) -> Facts {
        place.facts()
    }

    async fn freeze(&self, place: &Place) -> Result<()> {
        let place = place.clone();
        blocking(move || place.freeze()).await
    }

    async fn thaw(&self, place: &Place) -> Result<()> {
        let place = place.clone();
        blocking(move || place.thaw()).await
    }

    async fn save(&self, place: Option<&Place>, folder: &Path, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
        let (host, place, folder, options) = (Arc::clone(&self.0), place.cloned(), folder.to_owned(), options.clone());
        blocking(move || {
            if let (CheckpointKind::Memory, Some(place)) = (options.kind, &place) {
                return memory::save(place, &folder, &options.into);
            }
            let fetched = match place {
                Some(place) => disk::of_running(&place, &options.into)?,
                None => disk::of_stopped(&folder, &options.into, &host.home, (&host.engine()?, &host.agent))?,
            };
            Ok(SavedCheckpoint { kind: CheckpointKind::Disk, bytes: fetched.bytes, files: fetched.files, record: Value::Null })
        })
        .await
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
        Ok(vmm::usage(&place.limits, &folder.join(SCRATCH)))
    }

    fn limits(&self, place: Option<&Place>, spec: &SandboxSpec) -> Vec<LimitReport> {
        place.map_or_else(|| vmm::reports(&spec.limits), |place| place.limits.clone())
    }

    async fn reclaim(&self, _: &SandboxId, resources: &[Resource]) -> Result<()> {
        let mut resources = resources.to_vec();
        // Processes are in groups, and hold files of the folders.
        resources.sort_by_key(|resource| match resource {
            Resource::Process { .. } => 0,
            Resource::Cgroup { .. } => 1,
            _ => 2,
        });
        let reclaim = |resource: &Resource| match resource {
            Resource::Process { pid, start_time, .. } => start::end(&HostProcess { pid: *pid, start_time: *start_time }),
            Resource::Cgroup { path } => jail::remove_group(path),
            Resource::Folder { path } => remove(path),
            other => Err(Error::new(ErrorKind::Internal, "reclaim", format!("firecracker makes no such resource: {other:?}"))),
        };
        blocking(move || resources.iter().map(reclaim).fold(Ok(()), Result::and)).await
    }
}
