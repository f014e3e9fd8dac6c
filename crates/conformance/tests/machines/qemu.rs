use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use sandbar_conformance::{Availability, Reach, Variant, World};
use sandbar_core::{RootSource, SandboxId};
use sandbar_guest::KernelStore;
use sandbar_runtime::image::ImageStore;

use crate::variants::{Found, Preparing};

/// A virtual machine under QEMU.
pub const QEMU: Variant = Variant { name: "qemu", prepare };

/// A shell and the usual programs in one static file.
const BUSYBOX: &str = "/bin/busybox";

fn prepare(world: &World) -> Preparing<'_> {
    Box::pin(async {
        match look(world).await {
            Ok(availability) => availability,
            Err(reason) => Availability::Unavailable(reason),
        }
    })
}

async fn look(world: &World) -> Result<Availability, String> {
    let home = world.folder(&format!("{}/state", QEMU.name)).map_err(|error| format!("no folder: {error}"))?;
    let package = kernel_package().ok_or("there is no kernel's package in target/guest: run `cargo xtask setup`")?;
    KernelStore::new(&home).import(&package, None, Some("test")).map_err(|error| error.chain())?;
    let root = image(world, &home).await?;
    let found = Found::find(world, QEMU.name, "qemu").await?;
    let mut subject = found.subject(QEMU.name, root);
    subject.reach = vec![Reach::Shell, Reach::OwnRoot, Reach::RealFiles, Reach::Crash];
    let folder = subject.folder.clone();
    subject.crash = Some(Box::new(move |id| crash(&folder, id)));
    subject.threads = Some(2);
    Ok(Availability::Here(Box::new(subject)))
}

/// What `cargo xtask setup` has got from the distribution.
fn kernel_package() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest");
    let found = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    found.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).max()
}

/// An image of one static program that is a shell and everything else.
async fn image(world: &World, home: &Path) -> Result<RootSource, String> {
    let failed = |error: std::io::Error| format!("no image: {error}");
    let folder = world.folder(&format!("{}/image", QEMU.name)).map_err(failed)?;
    let make = || -> std::io::Result<()> {
        for name in ["bin", "etc", "tmp", "root", "home", "srv", "opt", "var/tmp", "proc", "sys", "dev", "run"] {
            fs::create_dir_all(folder.join(name))?;
        }
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        for name in ["tmp", "var/tmp"] {
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o1777))?;
        }
        fs::copy(BUSYBOX, folder.join("bin/busybox"))?;
        let list = Command::new(BUSYBOX).arg("--list").output()?;
        for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| !name.contains('/') && *name != "busybox") {
            symlink("busybox", folder.join("bin").join(name))?;
        }
        fs::write(folder.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")?;
        fs::write(folder.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
        fs::write(folder.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")
    };
    make().map_err(|error| format!("no image: {error} (busybox-static is needed: run `cargo xtask setup`)"))?;
    let store = ImageStore::open(home).map_err(|error| error.chain())?;
    let image = store.import(&folder, Some("base")).await.map_err(|error| error.chain())?;
    store.resolve(Some(&image.id.to_string())).await.map_err(|error| error.chain())
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
