//! Bringing up a sandbox: everything around the child's plan.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use prost::Message;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, openat};
use sandbar_core::{Context, Error, ErrorKind, IdRange, Journal, Lifetime, Result, RootSource, SandboxId, SandboxSpec};
use sandbar_protocol::AgentConfig;

use super::{
    Platform,
    bundle::{self, BUNDLE, IMAGE, WIRE_INSIDE, specification},
    engine::{Engine, STATE, read_back},
    limits,
    place::{Place, end_process, engine_of, prefer, runners},
    plan::{Outline, files, plan},
    wire,
};
use crate::{
    host::{
        asked::first_line,
        capabilities,
        cgroup::{Groups, Made},
        child::{Channel, Child, StayDumpable},
        disk, folder,
        ids::Ids,
        lingering, offspring,
        overlay::{RootOverlay, clone_read_only, mount_volumes},
        plan::{Overlay, hosts_file},
        syscall::Ended,
    },
    machine::{config::agent_config, process::HostProcess},
};

const OPERATION: &str = "gvisor start";
/// Bytes of /dev/shm where there is no memory limit. Docker has 64 MiB, at which browsers and data loaders break.
const SHARED_MEMORY: u64 = 256 << 20;
/// Bytes that the engine may say. The sandbox's first process says it there too, so it is bounded.
const SAID: u64 = 64 << 10;
/// Between looks at whether the agent's socket is there. Nothing tells of it: it is made in a mount namespace that is not ours.
const LOOK: Duration = Duration::from_millis(1);
/// What a host name may have at most.
const LONGEST_NAME: usize = 63;

/// The names of the steps at which a boot calls [`Journal::step`], in their order. A test that kills sandbar at each of them has killed it
/// everywhere between what the ledger is told.
pub const STEPS: [&str; 7] =
    ["gvisor.grouped", "gvisor.cloned", "gvisor.mapped", "gvisor.prepared", "gvisor.intended", "gvisor.executed", "gvisor.listening"];

/// A boot with everything owned, for a thread that may block.
pub(super) struct OwnedBoot {
    pub(super) engine: Engine,
    pub(super) id: SandboxId,
    pub(super) spec: SandboxSpec,
    pub(super) root: RootSource,
    pub(super) folder: PathBuf,
    pub(super) generation: u32,
    pub(super) ids: Option<IdRange>,
    pub(super) lifetime: Lifetime,
    pub(super) journal: Arc<dyn Journal>,
    /// Whether the kernel takes layers that are mounted nowhere, by descriptor.
    pub(super) by_descriptor: bool,
    pub(super) agent: PathBuf,
    /// The folder of a checkpoint's memory, to be loaded instead of starting the agent.
    pub(super) image: Option<PathBuf>,
    /// How long it may take.
    pub(super) patience: Duration,
}

impl OwnedBoot {
    /// Starts the sandbox and waits until its agent listens; undoes everything but the folder's content when that fails. Blocks. See
    /// [`RootOverlay::mount`] for what is left.
    ///
    /// # Errors
    /// The step that failed, or what the engine says.
    pub(super) fn run(mut self, left: &mut Vec<OwnedFd>) -> Result<Place> {
        let ids = Ids::of_sandbox(self.ids)?;
        for volume in &mut self.spec.volumes {
            let found = volume.source.canonicalize();
            volume.source = found.map_err(|error| {
                Error::io(OPERATION, "cannot find the source of a volume", error).with("source", volume.source.display())
            })?;
        }
        let name = format!("sandbar-{}-g{}", self.id, self.generation);
        let made = Groups::make(&name, &limits::of_groups(&self.spec.limits), None, &self.journal)?;
        let groups = made.groups.clone();
        self.journal.step(STEPS[0]);
        let _dumpable = StayDumpable::begin();
        match self.start(&ids, made, left) {
            Ok(place) => Ok(place),
            Err(error) => {
                let released = groups.release(&self.journal).and(disk::release(&self.folder, &self.journal));
                released.unwrap_or_else(|left| {
                    // What is left is in the ledger.
                    tracing::warn!(error = %left.chain(), "cannot release everything of a sandbox that did not start");
                });
                // Asked only now: the answer costs a good part of what a start does.
                match self.engine.version().map(|version| version.require()) {
                    Ok(Err(too_old)) => Err(too_old.with_source(error)),
                    _ => Err(error),
                }
            }
        }
    }

    fn start(&self, ids: &Ids, made: Made, left: &mut Vec<OwnedFd>) -> Result<Place> {
        let volatile = self.lifetime == Lifetime::Owned;
        let mut layers: Vec<PathBuf> = self.root.layers.iter().chain(&self.root.saved_layers).cloned().collect();
        layers.reverse();
        if layers.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "a gvisor sandbox needs an image"));
        }
        let channel = Channel::new()?;
        let overlay = || Overlay { layers: layers.clone(), folder: self.folder.clone(), by_descriptor: self.by_descriptor, volatile };
        let outline = Outline {
            ids,
            channel: channel.number(),
            overlay: (!ids.is_root()).then(overlay),
            agent: &self.agent,
            host: self.root.host.as_ref(),
            volumes: &self.spec.volumes,
            image: self.image.as_deref(),
            files: files(self.specification()?, self.config().encode_to_vec(), hosts_file(self.hostname())),
            arguments: self.arguments(),
            groups: made.threads.len(),
            kvm: self.engine.platform == Platform::Kvm,
            lifetime: self.lifetime,
            open_files: limits::most_open_files(),
        };
        // In the host's PID namespace: the engine's commands know the sandbox by its processes' ids.
        let mut child = Child::start(plan(outline)?, 0, channel, made.unified.as_ref().map(AsFd::as_fd))?;
        self.journal.step(STEPS[1]);
        ids.write_maps(child.pid())?;
        self.journal.step(STEPS[2]);
        drop(lingering::take(&self.folder));
        let disk = match self.spec.limits.disk {
            Some(bytes) if disk::is_available() => Some(disk::prepare(&self.folder, bytes, &self.journal)?),
            _ => folder::prepare(&self.folder).map(|()| None)?,
        };
        let (null, said) = (open("/dev/null", OFlags::RDWR)?, bounded_file()?);
        let as_root = match ids {
            Ids::Range(range) => Some((range.first, open(format!("/proc/{}/ns/user", child.pid()), OFlags::RDONLY)?)),
            _ => None,
        };
        let root = as_root.as_ref().map(|(owner, namespace)| {
            let (owner, user_namespace, by_descriptor) = (*owner, namespace.as_fd(), self.by_descriptor);
            RootOverlay { layers: &layers, folder: &self.folder, disk, user_namespace, owner, volatile, by_descriptor }.mount(left)
        });
        let root = root.transpose()?;
        let first: Vec<BorrowedFd<'_>> = [null.as_fd(), said.as_fd(), said.as_fd(), null.as_fd(), null.as_fd()]
            .into_iter()
            .chain(root.as_ref().map(AsFd::as_fd))
            .collect();
        child.send(&first)?;
        let program = self.engine.open()?;
        let mut pieces = Vec::new();
        if let Some((_, namespace)) = &as_root {
            for path in [Some(self.agent.as_path()), self.image.as_deref()].into_iter().flatten() {
                pieces.push(clone_read_only(path).context(OPERATION, || format!("cannot open {}", path.display()))?);
            }
            pieces.extend(mount_volumes(&self.spec.volumes, namespace.as_fd())?);
        }
        let second: Vec<BorrowedFd<'_>> =
            [program.as_fd()].into_iter().chain(pieces.iter().chain(&made.threads).map(AsFd::as_fd)).collect();
        child.send(&second)?;
        self.journal.step(STEPS[3]);

        let process = HostProcess::of(child.pid()).context(OPERATION, || "the sandbox's first process ended early".to_owned())?;
        self.journal.intend(&process.resource("agent"))?;
        self.journal.step(STEPS[4]);
        let started = child.release().and_then(|held| {
            offspring::add(process, held);
            self.journal.step(STEPS[5]);
            let waited = self.wait(&process, &said);
            if waited.is_err() {
                end_process(&process)?;
            }
            waited
        });
        left.extend(pieces.into_iter().chain(root));
        if started.is_err() {
            self.journal.forget(&process.resource("agent"))?;
        }
        started?;
        self.journal.step(STEPS[6]);
        let limits = limits::reports(&self.spec.limits);
        let engine = engine_of(&process);
        if let Err(error) = self.confine(&engine, &made.groups) {
            end_process(&process)?;
            self.journal.forget(&process.resource("agent"))?;
            return Err(error);
        }
        Ok(Place { id: self.id.to_string(), process, engine, folder: self.folder.clone(), groups: made.groups, limits })
    }

    /// Sees to it that the memory limit ends processes of the sandbox, and neither its sentry nor its agent (which, in a sandbox that was loaded,
    /// cannot be told from the others).
    fn confine(&self, engine: &[HostProcess], groups: &Groups) -> Result<()> {
        let mut runners = runners(engine);
        if self.image.is_none() {
            runners.truncate(1);
        }
        prefer(&runners);
        let Some(memory) = self.spec.limits.memory else { return Ok(()) };
        let pids: Vec<u32> = runners.iter().map(|process| process.pid).collect();
        groups.confine(&pids, memory).context(OPERATION, || "cannot limit the memory of what runs inside".to_owned())
    }

    /// Waits until the agent listens.
    fn wait(&self, process: &HostProcess, said: &OwnedFd) -> Result<()> {
        if self.image.is_some() {
            // An agent that comes out of a checkpoint is quiet until it is told.
            wire::wake(process).context(OPERATION, || "cannot wake the agent".to_owned())?;
        }
        let begun = Instant::now();
        while !wire::is_there(process) {
            if let Some(ended) = offspring::how_ended(process) {
                let how = match ended {
                    Ended::Exited(code) => format!("it exited with code {code}"),
                    Ended::Signalled(signal) => format!("it was ended by signal {signal}"),
                };
                let words = read_back(said);
                return Err(Error::new(ErrorKind::Unavailable, OPERATION, format!("runsc did not start the sandbox: {how}"))
                    .with_source(io::Error::other(first_line(&words))));
            }
            if begun.elapsed() > self.patience {
                return Err(Error::new(ErrorKind::TimedOut, OPERATION, "the agent does not listen")
                    .with("after", format!("{:?}", self.patience))
                    .with("platform", self.engine.platform.name())
                    .with_source(io::Error::other(first_line(&read_back(said)))));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    fn hostname(&self) -> &str {
        let name = self.spec.hostname.as_deref().unwrap_or(self.id.as_str());
        &name[..name.floor_char_boundary(LONGEST_NAME)]
    }

    fn specification(&self) -> Result<Vec<u8>> {
        let outline = bundle::Outline {
            hostname: self.hostname(),
            volumes: &self.spec.volumes,
            // Files in memory are the sentry's, which must not be what the kernel ends.
            shared_memory: self.spec.limits.memory.map_or(SHARED_MEMORY, |memory| memory / 2),
            open_files: limits::open_files(&self.spec.limits).max(limits::most_open_files()),
            redirects: self.leaves(),
        };
        serde_json::to_vec(&specification(&outline))
            .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "cannot write the specification").with_source(error))
    }

    /// Whether anything may leave: then the agent has to redirect it.
    fn leaves(&self) -> bool {
        self.spec.network.policy().is_some()
    }

    fn arguments(&self) -> Vec<String> {
        let mut arguments = self.engine.arguments();
        if self.leaves() {
            // Otherwise it takes that right out of the specification.
            arguments.push("--net-raw".to_owned());
        }
        arguments.push(if self.image.is_some() { "restore" } else { "run" }.to_owned());
        arguments.push(format!("--bundle={BUNDLE}"));
        arguments.push(format!("--pid-file={STATE}/pid"));
        if self.image.is_some() {
            arguments.push(format!("--image-path={IMAGE}"));
        }
        arguments.push(self.id.to_string());
        arguments
    }

    fn config(&self) -> AgentConfig {
        let limits = &self.spec.limits;
        AgentConfig {
            init: true,
            open_files: Some(limits::open_files(limits)),
            processes: Some(limits::processes(limits)),
            capabilities: Some(capabilities::kept()),
            listen_folder: Some(WIRE_INSIDE.into()),
            egress: self.leaves(),
            ..agent_config(&self.spec, &self.root)
        }
    }
}

/// A file in memory of a fixed size: what has no room in it is refused.
fn bounded_file() -> Result<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        let file = memfd_create("sandbar-engine", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, SAID)?;
        fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(file)
    };
    make().context(OPERATION, || "cannot make a file for what the engine says".to_owned())
}

fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
    let path = path.as_ref();
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .context(OPERATION, || format!("cannot open {}", path.display()))
}
