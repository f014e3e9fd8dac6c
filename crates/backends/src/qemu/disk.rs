use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{Context, Journal, Lifetime, NoJournal, Result};

use super::{boot, command::Machine, wall::Place};
use crate::{
    machine::{
        agent::AgentFile,
        socket::{AGENT_SOCKET, connect_blocking},
    },
    vmm::{self, Fetched, fetch_layer},
};

/// How long the pipe may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the processes of a machine that runs may take to stand still.
const STILL: Duration = Duration::from_secs(30);

/// The writable layer of a machine that runs. Blocks.
///
/// # Errors
/// What the agent says.
pub(super) fn of_awake(place: &Place, into: &Path) -> Result<Fetched> {
    fetch(&place.folder, into, STILL)
}

/// The writable layer of a machine that stands still. Only its agent can read the disk without being in the way of its kernel: so the machine goes on
/// for that long, and the agent has everything else in it stand still meanwhile. Blocks.
///
/// # Errors
/// Of the machine, or what the agent says.
pub(super) fn of_running(place: &Place, into: &Path) -> Result<Fetched> {
    place.thaw()?;
    let fetched = fetch(&place.folder, into, STILL);
    let frozen = place.freeze();
    fetched.and_then(|fetched| frozen.map(|()| fetched))
}

/// The writable layer of a machine that does not run: of one that is started on the same disks for that, with the kernel that a start would boot, and
/// ends with this process. Blocks for as long as a boot takes.
///
/// # Errors
/// As [`of_running`]; `Unavailable` without a kernel.
pub(super) fn of_stopped(folder: &Path, into: &Path, home: &Path, agent: &AgentFile) -> Result<Fetched> {
    let (kernel, initramfs) = vmm::kernel(home, agent)?;
    let memory = super::command::Memory::Anonymous;
    let machine = Machine { memory, kernel: kernel.for_qemu(), initramfs, ..vmm::read_record::<Machine>(folder)? };
    // It is nobody's place: nothing of it outlives this call, or this process.
    let journal: Arc<dyn Journal> = Arc::new(NoJournal);
    let (machine, pipe) = boot::start(&machine, agent, folder, Lifetime::Owned, false, &journal)?;
    let fetched = fetch(folder, into, boot::BOOT);
    let place = Place { machine, pipe, folder: folder.to_owned(), limits: Vec::new(), shares: vmm::Shares::default() };
    let halted = place.halt(&journal);
    fetched.and_then(|fetched| halted.map(|()| fetched))
}

fn fetch(folder: &Path, into: &Path, patience: Duration) -> Result<Fetched> {
    let end = Instant::now() + CONNECT;
    let stream = loop {
        match connect_blocking(folder, AGENT_SOCKET) {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            connected => break connected.context("checkpoint", || "the machine's pipe does not answer".to_owned())?,
        }
    };
    fetch_layer(stream, into, patience)
}
