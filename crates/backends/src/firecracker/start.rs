//! Starting Firecracker, in a jail or without one, and ending it.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Rlimit, getrlimit, prlimit},
};
use sandbar_core::{Context, Error, Journal, Lifetime, Resource, Result};

use super::{
    api,
    boot::Machine,
    engine::Engine,
    jail::{self, Jail},
    room::Room,
    wall::{PAUSED, Place},
};
use crate::{
    machine::{
        agent::AgentFile,
        process::{HostProcess, wait_for_exit},
    },
    vmm::{self, Launch},
};

const OPERATION: &str = "firecracker start";
/// What the ledger calls the two processes.
pub(super) const MACHINE_ROLE: &str = "machine";
pub(super) const CONSOLE_ROLE: &str = "console";
/// What Firecracker says, and the newest of what the guest printed (see the agent's `console`): files of the generation's folder.
const LOG: &str = "firecracker.log";
const CONSOLE: &str = "console.log";
/// The room of a machine that has no jail.
const ROOM: &str = "room";
/// How long a killed machine may take to be gone: the kernel frees its memory first.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// Addresses that a monitor may have beside its machine's memory: its program, and stacks and heaps of its threads, which it uses little of.
const OWN_MEMORY: u64 = 1 << 30;
/// How long the last words of a machine may take until they are written down.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The names of the steps at which a boot calls [`Journal::step`], in their order. A test that kills sandbar at each of them has killed it
/// everywhere between what the ledger is told.
pub const STEPS: [&str; 3] = ["firecracker.prepared", "firecracker.told", "firecracker.launched"];

/// Where and for whom a machine is started.
pub(super) struct Start<'a> {
    pub(super) engine: &'a Engine,
    pub(super) agent: &'a AgentFile,
    /// The generation's folder, where what outlives a stop is.
    pub(super) generation: &'a Path,
    pub(super) lifetime: Lifetime,
    /// `None` for a machine that is nobody's place and ends with this process.
    pub(super) journal: &'a Arc<dyn Journal>,
    /// Whether it gets a control group, which is to be told to the journal.
    pub(super) has_group: bool,
}

impl Start<'_> {
    /// Makes the machine's room anew, with its disks.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn room(&self, machine: &Machine) -> Result<(Room, Option<Jail>)> {
        clear(self.generation)?;
        let jail = machine.user.map(|user| Jail::new(&machine.name, user, self.generation, self.has_group));
        let folder = jail.as_ref().map_or_else(|| self.generation.join(ROOM), |jail| jail.root(&self.engine.program));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.context(OPERATION, || format!("cannot make {}", folder.display()))?;
        let room = Room { folder, user: machine.user };
        for (index, disk) in machine.disks.iter().enumerate() {
            let (file, name) = (self.generation.join(&disk.path), Machine::disk(index));
            if disk.read_only { room.show(&file, &name)? } else { room.lend(&file, &name)? }
        }
        Ok((room, jail))
    }

    /// Starts Firecracker in its room. Undoes what it did when it fails. Blocks.
    ///
    /// # Errors
    /// Of the kernel or the journal.
    pub(super) fn run(&self, machine: &Machine, (room, jail): (Room, Option<Jail>), arguments: &[&str]) -> Result<Place> {
        self.journal.step(STEPS[0]);
        let own: Vec<OsString> = ["--api-sock", api::SOCKET, "--level", "Warning"].iter().chain(arguments).map(OsString::from).collect();
        let (program, arguments, folder) = match (&jail, &self.engine.jailer) {
            (Some(jail), Some(jailer)) => (jailer, [jail.arguments(&self.engine.program, machine.shape), own].concat(), self.generation),
            _ => (&self.engine.program, own, room.folder.as_path()),
        };
        let groups: Vec<Resource> = groups(jail.as_ref()).collect();
        self.journal.intend_all(&groups)?;
        let (printed, print) =
            pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from).context(OPERATION, || "cannot make a pipe".to_owned())?;
        let agent = self.agent.path()?;
        let launch = Launch {
            agent,
            program,
            arguments,
            folder,
            log: LOG,
            lifetime: self.lifetime,
            output: Some(File::from(print)),
            role: MACHINE_ROLE,
            journal: self.journal,
        };
        let mut console = None;
        let started = launch.start_after(|monitor| {
            self.journal.step(STEPS[1]);
            bound(monitor, machine.shape.memory).context(OPERATION, || "cannot bound the monitor's memory".to_owned())?;
            let owned = (self.lifetime == Lifetime::Owned).then_some(monitor);
            let process = vmm::start_console(agent, self.generation, printed, owned)?;
            console = Some(process);
            self.journal.intend(&process.resource(CONSOLE_ROLE))
        });
        match (started, console) {
            (Ok(machine), Some(console)) => {
                self.journal.step(STEPS[2]);
                Ok(Place {
                    machine,
                    console,
                    room,
                    jail,
                    generation: self.generation.to_owned(),
                    limits: Vec::new(),
                    shares: vmm::Shares::default(),
                })
            }
            (started, console) => {
                if let Some(console) = console {
                    // It ends by itself, with what it reads.
                    end(&console)?;
                    self.journal.forget(&console.resource(CONSOLE_ROLE))?;
                }
                release(jail.as_ref(), self.journal)?;
                clear(self.generation)?;
                Err(started
                    .err()
                    .unwrap_or_else(|| Error::new(sandbar_core::ErrorKind::Internal, OPERATION, "nobody keeps what it prints")))
            }
        }
    }
}

impl Place {
    /// Ends the machine and releases what is not the generation's folder. Blocks.
    pub(super) fn halt(&self, journal: &Arc<dyn Journal>) -> Result<()> {
        for (process, role) in [(&self.machine, MACHINE_ROLE), (&self.console, CONSOLE_ROLE)] {
            end(process)?;
            journal.forget(&process.resource(role))?;
        }
        self.shares.end(journal, end)?;
        release(self.jail.as_ref(), journal)?;
        clear(&self.generation)
    }

    /// What is known of why the machine ended. Blocks for a moment, when it has ended just now.
    pub(super) fn said(&self) -> Option<String> {
        // It ends when it has written down the last words.
        if let Ok(Some(console)) = self.console.open() {
            let _ = wait_for_exit(&console, LAST_WORDS);
        }
        let console = self.generation.join(CONSOLE);
        // Firecracker says most on its standard output, which is the console.
        vmm::said(&console, &self.log()).or_else(|| vmm::said(&console, &console))
    }

    /// Firecracker's own log: without a jail it works in its room.
    fn log(&self) -> PathBuf {
        if self.jail.is_some() { self.generation.join(LOG) } else { self.room.folder.join(LOG) }
    }
}

/// Bounds what a monitor that was taken over could have of the host's memory: the machine's, and its own.
fn bound(monitor: HostProcess, memory: u64) -> io::Result<()> {
    let pid = i32::try_from(monitor.pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    // A user whose limit is lower already may not raise it.
    let most = getrlimit(rustix::process::Resource::As).maximum.unwrap_or(u64::MAX).min(memory.saturating_add(OWN_MEMORY));
    prlimit(Some(pid), rustix::process::Resource::As, Rlimit { current: Some(most), maximum: Some(most) })?;
    Ok(())
}

/// Ends a process of a machine.
///
/// # Errors
/// When it does not end.
pub(super) fn end(process: &HostProcess) -> Result<()> {
    vmm::end(process, PATIENCE).map_err(|error| Error::io("halt", "cannot end a process of the machine", error).with("pid", process.pid))
}

fn groups(jail: Option<&Jail>) -> impl Iterator<Item = Resource> {
    jail.into_iter().flat_map(|jail| &jail.groups).map(|path| Resource::Cgroup { path: path.clone() })
}

fn release(jail: Option<&Jail>, journal: &Arc<dyn Journal>) -> Result<()> {
    jail.into_iter().flat_map(|jail| &jail.groups).try_for_each(|group| jail::remove_group(group))?;
    groups(jail).try_for_each(|group| journal.forget(&group))
}

/// Removes what an earlier run left that would mislead this one.
fn clear(generation: &Path) -> Result<()> {
    for name in [PAUSED, CONSOLE, "console.old"] {
        let _ = fs::remove_file(generation.join(name));
    }
    vmm::remove(&generation.join(ROOM)).and_then(|()| vmm::remove(&generation.join(jail::BASE)))
}
