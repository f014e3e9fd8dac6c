//! Bringing up a sandbox: everything around the child's plan.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
};

use prost::Message;
use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create, openat};
use sandbar_core::{Context, Error, ErrorKind, IdRange, Journal, Lifetime, Result, RootSource, SandboxId, SandboxSpec};
use sandbar_protocol::AgentConfig;

use super::{
    Place, devices, landlock, limits,
    plan::{Outline, Root, plan},
};
use crate::host::{
    cgroup::{Groups, Made},
    child::{Channel, Child, StayDumpable},
    disk, folder,
    ids::Ids,
    lingering, offspring,
    overlay::{RootOverlay, mount_volumes},
    plan::Overlay,
    syscall::reap,
};
use crate::machine::{
    config::agent_config,
    process::{HostProcess, wait_for_exit},
    socket::{AGENT_SOCKET, listen_in},
};

const OPERATION: &str = "container start";
/// When the machine runs out of memory, a sandbox's processes go before the host's, and before their own agent.
const OOM_SCORE: i32 = 500;
/// Bytes of `/dev/shm` where there is no memory limit. Docker has 64 MiB, at which browsers and data loaders break.
const SHARED_MEMORY: u64 = 256 << 20;

/// The names of the steps at which a boot calls [`Journal::step`], in their order. A test that kills sandbar at each of them has killed it
/// everywhere between what the ledger is told.
pub const STEPS: [&str; 6] =
    ["container.grouped", "container.cloned", "container.mapped", "container.prepared", "container.intended", "container.executed"];

/// A boot with everything owned, for a thread that may block.
pub(super) struct OwnedBoot {
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
    /// The agent's file; without one the plan is rehearsed: everything but the agent.
    pub(super) agent: Option<PathBuf>,
}

impl OwnedBoot {
    /// Starts the agent, and undoes everything but the folder's content when that fails. Blocks. See [`RootOverlay::mount`] for
    /// what is left.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn run(self, left: &mut Vec<OwnedFd>) -> Result<Place> {
        let (place, held) = self.bring_up(left)?;
        offspring::add(place.process, held);
        Ok(place)
    }

    /// Does the same up to the agent's execution, and takes it down again. Blocks.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn rehearse(mut self, patience: Duration) -> Result<()> {
        self.agent = None;
        let journal = Arc::clone(&self.journal);
        let (place, held) = self.bring_up(&mut Vec::new())?;
        let ended = wait_for_exit(&held, patience).context(OPERATION, || "cannot wait for the rehearsal".to_owned())?;
        if !ended {
            let _ = place.process.kill(patience);
        }
        let _ = reap(held.as_fd());
        place.groups.release(&journal)?;
        if ended { Ok(()) } else { Err(Error::new(ErrorKind::TimedOut, OPERATION, "the rehearsal does not end")) }
    }

    fn bring_up(mut self, left: &mut Vec<OwnedFd>) -> Result<(Place, OwnedFd)> {
        let ids = Ids::of_sandbox(self.ids)?;
        for volume in &mut self.spec.volumes {
            let found = volume.source.canonicalize();
            volume.source = found.map_err(|error| {
                Error::io(OPERATION, "cannot find the source of a volume", error).with("source", volume.source.display())
            })?;
        }
        let name = format!("sandbar-{}-g{}", self.id, self.generation);
        let made = Groups::make(&name, &self.spec.limits, Some(u64::from(limits::DEFAULT_PIDS)), &self.journal)?;
        let groups = made.groups.clone();
        self.journal.step(STEPS[0]);
        let _dumpable = StayDumpable::begin();
        match self.start(&ids, made, left) {
            Ok(started) => Ok(started),
            Err(error) => {
                let released = groups.release(&self.journal).and(disk::release(&self.folder, &self.journal));
                released.unwrap_or_else(|left| {
                    // What is left is in the ledger.
                    tracing::warn!(error = %left.chain(), "cannot release everything of a sandbox that did not start");
                });
                Err(error)
            }
        }
    }

    fn start(&self, ids: &Ids, made: Made, left: &mut Vec<OwnedFd>) -> Result<(Place, OwnedFd)> {
        let volatile = self.lifetime == Lifetime::Owned;
        let mut layers: Vec<PathBuf> = self.root.layers.iter().chain(&self.root.saved_layers).cloned().collect();
        layers.reverse();
        if layers.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "a container needs an image"));
        }
        let landlock = landlock::domain()?;
        let shared_memory = self.spec.limits.memory.unwrap_or(SHARED_MEMORY);
        let channel = Channel::new()?;
        let outline = Outline {
            ids,
            channel: channel.number(),
            hostname: self.spec.hostname.as_deref().unwrap_or(self.id.as_str()),
            root: if ids.is_root() {
                Root::Sent
            } else {
                Root::Made(Overlay { layers: layers.clone(), folder: self.folder.clone(), by_descriptor: self.by_descriptor, volatile })
            },
            agent: self.agent.as_deref().filter(|_| !ids.is_root()),
            host: self.root.host.as_ref(),
            volumes: &self.spec.volumes,
            shared_memory,
            groups: made.threads.len(),
            landlock: landlock.as_ref().map(|(_, domain)| *domain),
            lifetime: self.lifetime,
            open_files: limits::most_open_files(),
            redirects: self.leaves(),
            network_beside: available_parallelism().is_ok_and(|processors| processors.get() > 1),
            rehearsal: self.agent.is_none(),
        };
        let mut child = Child::start(plan(outline)?, libc::CLONE_NEWPID, channel, made.unified.as_ref().map(AsFd::as_fd))?;

        self.journal.step(STEPS[1]);
        // From here on the child makes its namespaces while we prepare what it waits for.
        ids.write_maps(child.pid())?;
        self.journal.step(STEPS[2]);
        drop(lingering::take(&self.folder));
        let disk = match self.spec.limits.disk {
            Some(bytes) if disk::is_available() => Some(disk::prepare(&self.folder, bytes, &self.journal)?),
            _ => folder::prepare(&self.folder).map(|()| None)?,
        };
        let null = open("/dev/null", OFlags::RDWR)?;
        let as_root = match ids {
            Ids::Range(range) => Some((range.first, open(format!("/proc/{}/ns/user", child.pid()), OFlags::RDONLY)?)),
            _ => None,
        };
        let root = as_root.as_ref().map(|(owner, namespace)| {
            let (owner, user_namespace, by_descriptor) = (*owner, namespace.as_fd(), self.by_descriptor);
            RootOverlay { layers: &layers, folder: &self.folder, disk, user_namespace, owner, volatile, by_descriptor }.mount(left)
        });
        let root = root.transpose()?;
        let first: Vec<BorrowedFd<'_>> = [null.as_fd(); 5].into_iter().chain(root.as_ref().map(AsFd::as_fd)).collect();
        child.send(&first)?;
        self.journal.step(STEPS[3]);

        let listener = listen_in(&self.folder, AGENT_SOCKET).context(OPERATION, || "cannot make the agent's socket".to_owned())?;
        let config = self.config()?;
        // As root: nobody inside owns it, so nobody can write it, whatever they find by `/proc/1/exe`.
        let agent = self.agent.as_deref().map(|path| open(path, OFlags::PATH)).transpose()?;
        let mut second = vec![config.as_fd(), listener.as_fd(), agent.as_ref().unwrap_or(&null).as_fd()];
        let mut mounts = Vec::new();
        if let Some((owner, namespace)) = &as_root {
            mounts.push(devices::mount(*owner, shared_memory)?);
            mounts.extend(mount_volumes(&self.spec.volumes, namespace.as_fd())?);
        }
        second.extend(mounts.first().map(AsFd::as_fd));
        second.extend(landlock.as_ref().map(|(ruleset, _)| ruleset.as_fd()));
        second.extend(mounts.iter().skip(1).chain(&made.threads).map(AsFd::as_fd));
        child.send(&second)?;
        let process = HostProcess::of(child.pid()).context(OPERATION, || "the sandbox's first process ended early".to_owned())?;
        self.journal.intend(&process.resource("agent"))?;
        self.journal.step(STEPS[4]);
        let released = child.release();
        self.journal.step(STEPS[5]);
        if released.is_err() {
            self.journal.forget(&process.resource("agent"))?;
        }
        left.extend(mounts.into_iter().chain(root));
        let limits = limits::reports(&self.spec.limits);
        Ok((Place { process, folder: self.folder.clone(), groups: made.groups, limits }, released?))
    }

    /// Whether anything may leave: then the agent has to redirect it.
    fn leaves(&self) -> bool {
        self.spec.network.policy().is_some()
    }

    fn config(&self) -> Result<OwnedFd> {
        let limits = &self.spec.limits;
        let config = AgentConfig {
            init: true,
            open_files: Some(limits::open_files(limits)),
            processes: limits::processes(limits),
            egress: self.leaves(),
            oom_score_adj: OOM_SCORE,
            ..agent_config(&self.spec, &self.root)
        };
        let make = || -> io::Result<OwnedFd> {
            let file = memfd_create("sandbar-config", MemfdFlags::CLOEXEC)?;
            let bytes = config.encode_to_vec();
            let written = rustix::io::pwrite(&file, &bytes, 0)?;
            if written == bytes.len() { Ok(file) } else { Err(io::ErrorKind::WriteZero.into()) }
        };
        make().context(OPERATION, || "cannot write the agent's configuration".to_owned())
    }
}

fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
    let path = path.as_ref();
    openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .context(OPERATION, || format!("cannot open {}", path.display()))
}
