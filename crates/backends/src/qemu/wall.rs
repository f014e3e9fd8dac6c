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
use serde_json::Value;

use super::{
    Accelerator, QemuOptions,
    accelerator::Choice,
    boot::{self, BOOT, MACHINE_ROLE, PATIENCE, PIPE_ROLE},
    disk, info, memory, probe,
    qmp::Qmp,
};
use crate::{
    machine::{
        Backend, Boot, Facts, Machine, Memory, TemplateKey,
        agent::AgentFile,
        process::HostProcess,
        socket::{AGENT_SOCKET, connect_blocking, connect_in},
    },
    vmm::{self, Engine, OwnedBoot, SCRATCH, Shares, Sharing, blocking, processor, remove},
};

/// The provider `qemu`.
pub type QemuProvider = Machine<Qemu>;

/// There while the machine stands still because somebody wants it to: only the machine itself could say so otherwise, and only to one at a time.
pub(super) const PAUSED: &str = "paused";
/// How long the control socket may be somebody else's.
const CONTROL: Duration = Duration::from_secs(10);

/// The backend under [`QemuProvider`].
#[derive(Clone)]
pub struct Qemu(Arc<Host>);

struct Host {
    home: PathBuf,
    agent: AgentFile,
    accelerator: Choice,
}

impl Host {
    fn template(&self, boot: &OwnedBoot) -> Result<Option<TemplateKey>> {
        let program = info::program().ok_or_else(info::missing)?;
        let accelerator = self.accelerator.get();
        let mut bound = vec![("accelerator", accelerator.name().to_owned())];
        if accelerator == Accelerator::Kvm {
            bound.push(("processor", processor()));
        }
        vmm::template(&self.home, Engine { provider: info::NAME, program: &program, bound }, &self.agent, boot)
    }
}

/// Where one machine is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// QEMU.
    pub(super) machine: HostProcess,
    /// The process that owned the pipe first; another one may own it by now.
    pub(super) pipe: HostProcess,
    /// The generation's folder.
    pub(super) folder: PathBuf,
    pub(super) limits: Vec<LimitReport>,
    /// Those that serve volumes.
    #[serde(default, skip_serializing_if = "Shares::is_empty")]
    pub(super) shares: Shares,
}

impl Qemu {
    /// The provider, with its kernels and images in the state folder `home`.
    pub fn provider(home: &Path, options: &QemuOptions) -> QemuProvider {
        let accelerator = Choice::new(home, options.accelerator);
        Machine::new(Self(Arc::new(Host { home: home.to_owned(), agent: AgentFile::new(home), accelerator })))
    }

    /// How a machine's volumes come to it.
    fn sharing(&self, place: &Place) -> Sharing {
        let (host, folder, generation) = (Arc::clone(&self.0), place.folder.clone(), place.folder.clone());
        Sharing {
            connect: Box::new(move || connect_blocking(&folder, AGENT_SOCKET)),
            agent: Box::new(move || host.agent.path().map(Path::to_owned)),
            folder: generation,
        }
    }
}

impl Place {
    fn facts(&self) -> Facts {
        let Some(how) = vmm::how_ended(&self.machine) else {
            return if self.folder.join(PAUSED).exists() { Facts::Frozen } else { Facts::Alive };
        };
        // A machine that ends by itself exits with 0, which says nothing.
        Facts::Gone(match boot::said(&self.folder) {
            Some(said) => format!("the machine {how}: {said}"),
            None => format!("the machine {how}"),
        })
    }

    /// Has the machine stand still. Blocks.
    pub(super) fn freeze(&self) -> Result<()> {
        let marker = self.folder.join(PAUSED);
        fs::write(&marker, "").context("freeze", || "cannot note that the machine is paused".to_owned())?;
        let stopped = Qmp::connect(&self.folder, CONTROL, &self.machine).and_then(|mut qmp| qmp.execute("stop", &Value::Null));
        if stopped.is_err() {
            let _ = fs::remove_file(&marker);
        }
        stopped.map(drop)
    }

    /// Lets it go on. Blocks.
    pub(super) fn thaw(&self) -> Result<()> {
        Qmp::connect(&self.folder, CONTROL, &self.machine)?.execute("cont", &Value::Null)?;
        match fs::remove_file(self.folder.join(PAUSED)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("thaw", || "cannot note that the machine goes on".to_owned())
            }
            _ => Ok(()),
        }
    }

    pub(super) fn halt(&self, journal: &Arc<dyn Journal>) -> Result<()> {
        end(&self.machine)?;
        journal.forget(&self.machine.resource(MACHINE_ROLE))?;
        // It sees the machine's end by itself, a moment later.
        end(&self.pipe)?;
        journal.forget(&self.pipe.resource(PIPE_ROLE))?;
        self.shares.end(journal, end)?;
        boot::clear(&self.folder);
        Ok(())
    }
}

fn end(process: &HostProcess) -> Result<()> {
    vmm::end(process, PATIENCE).map_err(|error| Error::io("halt", "cannot end a process of the machine", error).with("pid", process.pid))
}

#[async_trait]
impl Backend for Qemu {
    type Place = Place;

    const SETTLING: Duration = vmm::SETTLING;

    fn info(&self) -> ProviderInfo {
        info::info()
    }

    async fn probe(&self) -> Probe {
        let host = Arc::clone(&self.0);
        let looked = tokio::task::spawn_blocking(move || probe::probe(&host.home, &host.accelerator)).await;
        looked.unwrap_or_else(|error| Probe { usable: false, verdict: error.to_string(), hint: None })
    }

    async fn boot(&self, boot: Boot<'_>) -> Result<Place> {
        let host = Arc::clone(&self.0);
        let boot = OwnedBoot::of(&boot);
        blocking(move || boot::run(boot, &host.home, &host.agent, host.accelerator.get())).await
    }

    async fn template(&self, boot: &Boot<'_>) -> Result<Option<TemplateKey>> {
        let (host, boot) = (Arc::clone(&self.0), OwnedBoot::of(boot));
        blocking(move || host.template(&boot)).await
    }

    fn template_config(&self, boot: &Boot<'_>) -> Option<AgentConfig> {
        Some(OwnedBoot::of(boot).later_config(GuestWire::Serial))
    }

    async fn load(&self, boot: Boot<'_>, memory: Memory<'_>) -> Result<Place> {
        let host = Arc::clone(&self.0);
        let boot = OwnedBoot::of(&boot);
        let (saved, record) = (memory.folder.to_owned(), memory.record.clone());
        blocking(move || {
            vmm::check_volumes(&boot.spec.volumes)?;
            let accelerator = host.accelerator.get();
            let loaded = memory::load((&saved, &record), accelerator, &boot, &host.agent);
            let (machine, pipe) = loaded?;
            Ok(Place { machine, pipe, folder: boot.folder, limits: vmm::reports(&boot.spec.limits), shares: vmm::Shares::default() })
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
        let gone = |error| Error::new(ErrorKind::Unavailable, "dial", "the machine's pipe does not answer").with_source(error);
        if place.shares.has_lost_one(&place.folder) && place.machine.is_alive() {
            place.shares.serve_again(self.sharing(place)).await;
        }
        match connect_in(&place.folder, AGENT_SOCKET).await {
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) if !place.machine.is_alive() => return Err(gone(error)),
            Err(_) => {}
        }
        // Whoever owned the pipe is gone, and the machine is not.
        let (host, folder) = (Arc::clone(&self.0), place.folder.clone());
        let started = blocking(move || vmm::start_pipe(host.agent.path()?, &folder)).await;
        match connect_in(&place.folder, AGENT_SOCKET).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(started.err().unwrap_or_else(|| gone(error))),
        }
    }

    fn notes_saves_in<'place>(&self, place: &'place Place) -> Option<&'place Path> {
        Some(&place.folder)
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
                return memory::save(place, &folder, &options.into, &host.agent);
            }
            let fetched = match place {
                Some(place) => disk::of_running(&place, &options.into)?,
                None => disk::of_stopped(&folder, &options.into, &host.home, &host.agent)?,
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
        // Processes hold files of the folders.
        resources.sort_by_key(|resource| matches!(resource, Resource::Folder { .. }));
        let reclaim = |resource: &Resource| match resource {
            Resource::Process { pid, start_time, .. } => end(&HostProcess { pid: *pid, start_time: *start_time }),
            Resource::Folder { path } => remove(path),
            other => Err(Error::new(ErrorKind::Internal, "reclaim", format!("qemu makes no such resource: {other:?}"))),
        };
        blocking(move || resources.iter().map(reclaim).fold(Ok(()), Result::and)).await
    }
}
