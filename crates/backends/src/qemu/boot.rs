use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use sandbar_core::{Context, Error, ErrorKind, Journal, Lifetime, Result, RootSource, SandboxId, SandboxSpec};
use sandbar_guest::{KernelStore, RootImage, Scratch, config_disk, initramfs};
use sandbar_protocol::{AgentConfig, DiskRole, GuestBoot, GuestDisk, GuestWire};

use super::{
    command::{Disk, Machine, Memory},
    info,
    memory::RAM,
    probe,
    shape::{self, Shape},
    wall::Place,
    why,
};
use crate::machine::{
    Boot,
    agent::AgentFile,
    config::agent_config,
    launched::{self, Launch},
    process::HostProcess,
};

const OPERATION: &str = "qemu start";
/// The files of a generation's folder.
pub(super) const CONFIG: &str = "config.img";
pub(super) const SCRATCH: &str = "scratch.img";
pub(super) const SAVED: &str = "saved.squashfs";
/// What the ledger calls the two processes.
pub(super) const MACHINE_ROLE: &str = "machine";
pub(super) const PIPE_ROLE: &str = "pipe";
/// How long a killed machine may take to be gone: the kernel frees its memory first.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The names of the steps at which a boot calls [`Journal::step`], in their order. A test that kills sandbar at each of them has killed it
/// everywhere between what the ledger is told.
pub const STEPS: [&str; 3] = ["qemu.prepared", "qemu.launched", "qemu.piped"];

/// A boot with everything owned, for a thread that may block.
pub(super) struct OwnedBoot {
    pub(super) id: SandboxId,
    pub(super) spec: SandboxSpec,
    pub(super) root: RootSource,
    pub(super) folder: PathBuf,
    /// Whether this machine is to become a template: its memory is in a file then.
    pub(super) is_template: bool,
    pub(super) lifetime: Lifetime,
    pub(super) journal: Arc<dyn Journal>,
}

impl OwnedBoot {
    pub(super) fn of(boot: &Boot<'_>) -> Self {
        Self {
            id: boot.id.clone(),
            spec: boot.spec.clone(),
            root: boot.root.clone(),
            folder: boot.folder.to_owned(),
            is_template: boot.generation == 0,
            lifetime: boot.lifetime,
            journal: Arc::clone(boot.journal),
        }
    }

    /// Starts a machine that boots its kernel. Undoes what it did when it fails, but for the content of the folder. Blocks.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn run(&self, home: &Path, agent: &AgentFile) -> Result<Place> {
        let machine = self.prepare(home, agent)?;
        self.journal.step(STEPS[0]);
        self.start(&machine, agent, false)
    }

    /// Makes what a machine is started from.
    fn prepare(&self, home: &Path, agent: &AgentFile) -> Result<Machine> {
        let program = info::program().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, OPERATION, "qemu-system-x86_64 is missing").with_hint("sandbar setup qemu")
        })?;
        let kernel = KernelStore::new(home).newest()?;
        let shape = Shape::of(&self.spec.limits)?;
        let image = RootImage::new(home).of(&self.root)?;
        let mut disks = vec![read_only(CONFIG), read_only(image)];
        let mut roles = vec![DiskRole::Layer];
        if !self.root.saved_layers.is_empty() {
            let saved = self.folder.join(SAVED);
            if !saved.exists() {
                RootImage::of_saved(&self.root.saved_layers, &self.folder.join("saved.new"))?;
                fs::rename(self.folder.join("saved.new"), &saved).context(OPERATION, || "cannot keep the saved layers".to_owned())?;
            }
            disks.push(read_only(SAVED));
            roles.push(DiskRole::Layer);
        }
        let scratch = self.folder.join(SCRATCH);
        if !scratch.exists() {
            Scratch::make(&self.folder.join("scratch.new"), shape.disk)?;
            fs::rename(self.folder.join("scratch.new"), &scratch).context(OPERATION, || "cannot keep the disk".to_owned())?;
        }
        disks.push(Disk { path: SCRATCH.into(), read_only: false });
        roles.push(DiskRole::Scratch);
        let config = config_disk(&self.config(&roles).encode_to_vec());
        fs::write(self.folder.join(CONFIG), config).context(OPERATION, || "cannot write the configuration's disk".to_owned())?;
        let machine = Machine {
            program,
            accelerator: probe::accelerator(),
            shape,
            initramfs: initramfs(&kernel, agent.path()?, AgentFile::digest())?,
            kernel: kernel.for_qemu(),
            disks,
            memory: if self.is_template { Memory::Shared(RAM.into()) } else { Memory::Anonymous },
        };
        machine.write(&self.folder)?;
        Ok(machine)
    }

    /// What the agent of a machine is told that was not booted for it.
    pub(super) fn later_config(&self) -> AgentConfig {
        self.config(&[])
    }

    fn config(&self, roles: &[DiskRole]) -> AgentConfig {
        let disks = roles.iter().map(|role| GuestDisk { role: (*role).into(), target: Vec::new() }).collect();
        let limits = &self.spec.limits;
        AgentConfig {
            init: true,
            open_files: Some(shape::open_files(limits)),
            oom_score_adj: 500,
            guest: Some(GuestBoot {
                disks,
                hostname: self.spec.hostname.clone().unwrap_or_else(|| self.id.to_string()),
                wire: GuestWire::Serial.into(),
                limits: Some(shape::guest_limits(limits)),
            }),
            ..agent_config(&self.spec, &self.root)
        }
    }

    fn start(&self, machine: &Machine, agent: &AgentFile, waiting: bool) -> Result<Place> {
        let limits = shape::reports(&self.spec.limits);
        let started = start(machine, agent, &self.folder, self.lifetime, waiting, &self.journal)?;
        Ok(Place { machine: started.0, pipe: started.1, folder: self.folder.clone(), limits })
    }
}

fn read_only(path: impl Into<PathBuf>) -> Disk {
    Disk { path: path.into(), read_only: true }
}

/// Starts a machine and the process that owns its pipe. Blocks.
pub(super) fn start(
    machine: &Machine,
    agent: &AgentFile,
    folder: &Path,
    lifetime: Lifetime,
    waiting: bool,
    journal: &Arc<dyn Journal>,
) -> Result<(HostProcess, HostProcess)> {
    clear(folder);
    let agent = agent.path()?;
    let launch = Launch {
        agent,
        program: &machine.program,
        arguments: machine.arguments(waiting),
        folder,
        log: why::LOG,
        lifetime,
        role: MACHINE_ROLE,
        journal,
    };
    let process = launch.start()?;
    journal.step(STEPS[1]);
    let piped = launched::start_pipe(agent, folder).and_then(|pipe| {
        journal.intend(&pipe.resource(PIPE_ROLE))?;
        Ok(pipe)
    });
    match piped {
        Ok(pipe) => {
            journal.step(STEPS[2]);
            Ok((process, pipe))
        }
        Err(error) => {
            let reason = if process.is_alive() { None } else { why::said(folder) };
            // The pipe's process, if there is one, ends with the machine.
            if launched::end(&process, PATIENCE).is_ok() {
                journal.forget(&process.resource(MACHINE_ROLE))?;
            }
            Err(match reason {
                Some(reason) => {
                    Error::new(ErrorKind::Unavailable, OPERATION, format!("the machine did not start: {reason}")).with_source(error)
                }
                None => error,
            })
        }
    }
}

/// Removes what an earlier run left that would mislead this one.
pub(super) fn clear(folder: &Path) {
    for name in ["wire.sock", "console.sock", "agent.sock", super::QMP_SOCKET, super::wall::PAUSED, "console.log", "console.old"] {
        let _ = fs::remove_file(folder.join(name));
    }
}
