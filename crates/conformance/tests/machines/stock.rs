//! What virtual machines of all monitors are tested with.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use sandbar_backends::{ProviderOptions, firecracker::FirecrackerOptions};
use sandbar_conformance::{Reach, Subject, World};
use sandbar_core::{RootSource, SandboxId};
use sandbar_guest::KernelStore;
use sandbar_runtime::image::ImageStore;

use crate::engines::busybox;

/// What `cargo xtask setup` has got.
const LAB: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/lab");

/// A state folder with a kernel, and an image.
pub async fn root(world: &World, variant: &str) -> Result<RootSource, String> {
    let folder = |name: &str| world.folder(&format!("{variant}/{name}")).map_err(|error| format!("no folder: {error}"));
    let home = folder("state")?;
    let kernel = kernel().ok_or("there is no kernel in target/lab: run `cargo xtask setup`")?;
    // It is unpacked there: an emulated machine takes minutes for that.
    let imported = KernelStore::new(&home).import(&kernel.join("vmlinux"), Some(&kernel.join("modules")), Some("test"));
    imported.map_err(|error| error.chain())?;
    let store = ImageStore::open(&home).map_err(|error| error.chain())?;
    busybox::image(&store, &folder("image")?).await
}

/// What is true of every machine.
pub fn subject(subject: Subject, monitor: &'static str) -> Subject {
    let machines = subject.folder.clone();
    Subject {
        reach: vec![
            Reach::Shell,
            Reach::JobControl,
            Reach::OwnMachine,
            Reach::OwnRoot,
            Reach::RealFiles,
            Reach::Crash,
            Reach::NoOrphans,
            Reach::Layers,
        ],
        crash: Some(Box::new(move |id| crash(&machines, id, monitor))),
        threads: Some(2),
        ..subject
    }
}

/// Options with the Firecracker that was fetched for the lab, if it was.
pub fn firecracker(home: PathBuf, jail: bool) -> ProviderOptions {
    let fetched = Some(Path::new(LAB).join("bin/firecracker")).filter(|path| path.exists());
    let firecracker = FirecrackerOptions { firecracker: fetched, jail: Some(jail), ..FirecrackerOptions::default() };
    ProviderOptions { firecracker, ..ProviderOptions::new(home) }
}

fn kernel() -> Option<PathBuf> {
    let found = fs::read_dir(LAB).ok()?.flatten().map(|entry| entry.path());
    found.filter(|path| path.join("modules").exists()).max()
}

/// Ends the machine of a sandbox from outside: it is the process that has the sandbox's folder, or something in it, as its own; one in a jail sees no
/// other root, and is told its name.
fn crash(folder: &Path, id: &SandboxId, monitor: &str) -> bool {
    let is_machine = |process: &Path| {
        let cwd = fs::read_link(process.join("cwd")).unwrap_or_default();
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let is_here = cwd.starts_with(folder) && cwd.iter().any(|part| part == id.as_str());
        let is_named = words.any(|word| word.starts_with(format!("{id}-g").as_bytes()));
        fs::read_to_string(process.join("comm")).unwrap_or_default().starts_with(monitor) && (is_here || is_named)
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let Some(machine) = processes.into_iter().find(|path| is_machine(path)) else { return false };
    let pid = machine.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
    pid.is_some_and(|pid| end(pid).is_ok())
}

/// Ends a process, and waits until it has ended.
fn end(pid: Pid) -> rustix::io::Result<()> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_send_signal(&process, Signal::KILL)?;
    let limit = Timespec { tv_sec: 60, tv_nsec: 0 };
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))?;
    if ended == 1 { Ok(()) } else { Err(rustix::io::Errno::TIMEDOUT) }
}
