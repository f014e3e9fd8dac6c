use std::{
    fs,
    path::{Path, PathBuf},
};

use sandbar_backends::{
    ProviderOptions,
    qemu::{Accelerator, QemuOptions},
};
use sandbar_conformance::{Availability, Part, Reach, Subject, Variant, World};
use sandbar_core::SandboxId;
use sandbar_guest::KernelStore;
use sandbar_runtime::image::ImageStore;

use crate::{
    engines::busybox,
    variants::{Found, Preparing},
};

/// A virtual machine under QEMU, emulated: what works on every machine.
pub const TCG: Variant = Variant { name: "qemu-tcg", prepare };

/// What a machine does to a sandbox. What the agent does in it is tested on other walls, many times as fast as an emulated processor.
const PARTICULAR: Part = Part {
    nouns: &["memory", "restore", "signal", "stats", "status", "stdin", "stop_start"],
    reason: "emulation makes it slow, and other walls show it: SANDBAR_LONG=1 asks for it here as well",
};

fn prepare(world: &World) -> Preparing<'_> {
    Box::pin(async {
        match look(world).await {
            Ok(availability) => availability,
            Err(reason) => Availability::Unavailable(reason),
        }
    })
}

async fn look(world: &World) -> Result<Availability, String> {
    let folder = |name: &str| world.folder(&format!("{}/{name}", TCG.name)).map_err(|error| format!("no folder: {error}"));
    let home = folder("state")?;
    let package = kernel_package().ok_or("there is no kernel's package in target/lab: run `cargo xtask setup`")?;
    KernelStore::new(&home).import(&package, None, Some("test")).map_err(|error| error.chain())?;
    let store = ImageStore::open(&home).map_err(|error| error.chain())?;
    let root = busybox::image(&store, &folder("image")?).await?;
    let options = |home| ProviderOptions { qemu: QemuOptions { accelerator: Some(Accelerator::Tcg) }, ..ProviderOptions::new(home) };
    let found = Found::find_with(world, TCG.name, "qemu", options).await?;
    let subject = found.subject(TCG.name, root);
    let machines = subject.folder.clone();
    Ok(Availability::Here(Box::new(Subject {
        reach: vec![Reach::Shell, Reach::JobControl, Reach::OwnRoot, Reach::RealFiles, Reach::Crash, Reach::NoOrphans, Reach::Layers],
        crash: Some(Box::new(move |id| crash(&machines, id))),
        threads: Some(2),
        patience: 4,
        only: std::env::var_os("SANDBAR_LONG").is_none().then_some(PARTICULAR),
        ..subject
    })))
}

/// What `cargo xtask setup` has got from the distribution.
fn kernel_package() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab");
    let found = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path().join("package.deb"));
    found.filter(|path| path.exists()).max()
}

/// Ends the machine of a sandbox from outside: it is the process that has the sandbox's folder as its own.
fn crash(folder: &Path, id: &SandboxId) -> bool {
    let is_machine = |process: &Path| {
        let cwd = fs::read_link(process.join("cwd")).unwrap_or_default();
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        cwd.starts_with(folder) && cwd.iter().any(|part| part == id.as_str()) && name.starts_with("qemu")
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    let Some(machine) = processes.into_iter().find(|path| is_machine(path)) else { return false };
    let pid = machine.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok())
}
