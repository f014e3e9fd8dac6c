use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{Context, Journal, Lifetime, NoJournal, Result};

use super::{boot::Machine, engine::Engine, start::Start, vsock, wall::Place};
use crate::{
    machine::agent::AgentFile,
    vmm::{self, Fetched, fetch_layer},
};

/// How long a machine that runs may take to take a connection, and its processes to stand still.
const STILL: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(5);

/// The writable layer of a machine that runs. Blocks.
///
/// # Errors
/// What the agent says.
pub(super) fn of_awake(place: &Place, into: &Path) -> Result<Fetched> {
    fetch(place, into, STILL)
}

/// The writable layer of a machine that stands still. Only its agent can read the disk without being in the way of its kernel: so the machine goes on
/// for that long, and the agent has everything else in it stand still meanwhile. Blocks.
///
/// # Errors
/// Of the machine, or what the agent says.
pub(super) fn of_running(place: &Place, into: &Path) -> Result<Fetched> {
    place.thaw()?;
    let fetched = fetch(place, into, STILL);
    let frozen = place.freeze();
    fetched.and_then(|fetched| frozen.map(|()| fetched))
}

/// The writable layer of a machine that does not run: of one that is started on the same disks for that, with the kernel that a start would boot, and
/// ends with this process. Blocks for as long as a boot takes.
///
/// # Errors
/// As [`of_running`]; `Unavailable` without a kernel.
pub(super) fn of_stopped(folder: &Path, into: &Path, home: &Path, (engine, agent): (&Engine, &AgentFile)) -> Result<Fetched> {
    let (kernel, initramfs) = vmm::kernel(home, agent)?;
    let machine = Machine { kernel: kernel.vmlinux(), initramfs, ..vmm::read_record::<Machine>(folder)? };
    // It is nobody's place: nothing of it outlives this call, or this process.
    let journal: Arc<dyn Journal> = Arc::new(NoJournal);
    let start = Start { engine, agent, generation: folder, lifetime: Lifetime::Owned, journal: &journal, has_group: false };
    let place = machine.boot(&start)?;
    let fetched = fetch(&place, into, super::wall::BOOT);
    let halted = place.halt(&journal);
    fetched.and_then(|fetched| halted.map(|()| fetched))
}

fn fetch(place: &Place, into: &Path, patience: Duration) -> Result<Fetched> {
    let end = Instant::now() + patience;
    let stream = loop {
        match vsock::connect_blocking_in(&place.room.folder) {
            Err(_) if Instant::now() < end && place.machine.is_alive() => std::thread::sleep(LOOK),
            connected => {
                let reason = || place.said().unwrap_or_else(|| "it does not say why".to_owned());
                break connected.context("checkpoint", || format!("the machine's agent does not take a connection: {}", reason()))?;
            }
        }
    };
    fetch_layer(stream, into, patience)
}
