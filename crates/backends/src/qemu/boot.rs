use std::{fs, path::Path, sync::Arc, time::Duration};

use sandbar_core::{Error, ErrorKind, Journal, Lifetime, Result};
use sandbar_protocol::GuestWire;

use super::{
    Accelerator,
    command::{Machine, Memory},
    confinement, info,
    memory::RAM,
    wall::Place,
};
use crate::{
    machine::{agent::AgentFile, process::HostProcess},
    vmm::{self, DiskRate, Materials, OwnedBoot},
};

const OPERATION: &str = "qemu start";
/// What QEMU says, and the newest of what the guest printed (see the agent's `pipe`): files of the generation's folder.
pub(super) const LOG: &str = "qemu.log";
const CONSOLE: &str = "console.log";
/// What the ledger calls the two processes.
pub(super) const MACHINE_ROLE: &str = "machine";
pub(super) const PIPE_ROLE: &str = "pipe";
/// An emulated machine boots in two seconds; in minutes on a host that is as busy as one can be. One that ends is seen at once.
pub(super) const BOOT: Duration = Duration::from_secs(180);
/// How long a killed machine may take to be gone: the kernel frees its memory first.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The names of the steps at which a boot calls [`Journal::step`], in their order. A test that kills sandbar at each of them has killed it
/// everywhere between what the ledger is told.
pub const STEPS: [&str; 3] = ["qemu.prepared", "qemu.launched", "qemu.piped"];

/// Starts a machine that boots its kernel. Undoes what it did when it fails, but for the content of the folder. Blocks.
///
/// # Errors
/// The step that failed.
pub(super) fn run(boot: OwnedBoot, home: &Path, agent: &AgentFile, accelerator: Accelerator) -> Result<Place> {
    let program = info::program().ok_or_else(info::missing)?;
    let Materials { shape, kernel, initramfs, disks } = boot.materials(home, agent, GuestWire::Serial)?;
    // What is to become a template has its memory in a file.
    let memory = if boot.generation == 0 { Memory::Shared(RAM.into()) } else { Memory::Anonymous };
    let machine = Machine {
        program,
        accelerator,
        shape,
        initramfs,
        kernel: kernel.for_qemu(),
        disks,
        memory,
        rate: DiskRate::of(&boot.spec.limits),
        user: confinement::user(boot.ids),
    };
    vmm::write_record(&machine, &boot.folder)?;
    boot.journal.step(STEPS[0]);
    let limits = vmm::reports(&boot.spec.limits);
    let (machine, pipe) = start(&machine, agent, &boot.folder, boot.lifetime, false, &boot.journal)?;
    Ok(Place { machine, pipe, folder: boot.folder, limits, shares: vmm::Shares::default() })
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
    let process = confinement::launch(machine, agent, folder, lifetime, waiting, journal)?;
    journal.step(STEPS[1]);
    let piped = vmm::start_pipe(agent, folder).and_then(|pipe| {
        journal.intend(&pipe.resource(PIPE_ROLE))?;
        Ok(pipe)
    });
    match piped {
        Ok(pipe) => {
            journal.step(STEPS[2]);
            Ok((process, pipe))
        }
        Err(error) => {
            let reason = if process.is_alive() { None } else { said(folder) };
            // The pipe's process, if there is one, ends with the machine.
            if vmm::end(&process, PATIENCE).is_ok() {
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

/// What is known of why a machine ended.
pub(super) fn said(folder: &Path) -> Option<String> {
    vmm::said(&folder.join(CONSOLE), &folder.join(LOG))
}

/// Removes what an earlier run left that would mislead this one.
pub(super) fn clear(folder: &Path) {
    for name in [super::WIRE_SOCKET, super::CONSOLE_SOCKET, "agent.sock", super::QMP_SOCKET, super::wall::PAUSED, CONSOLE, "console.old"] {
        let _ = fs::remove_file(folder.join(name));
    }
}
