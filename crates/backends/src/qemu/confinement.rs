//! What of this host a machine's process keeps: as root a user, a root and a network of its own; without, what Landlock leaves of the user's files.

use std::{
    ffi::OsString,
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::thread::CapabilitySet;
use sandbar_core::{Context, IdRange, Journal, Lifetime, Result};

use super::{
    Accelerator, CONSOLE_SOCKET, QMP_SOCKET, WIRE_SOCKET,
    boot::{LOG, MACHINE_ROLE},
    command::{Machine, Memory},
};
use crate::{
    machine::process::HostProcess,
    vmm::{Launch, open_to_all},
};

const OPERATION: &str = "qemu start";
/// Where systems have their programs and what those load; QEMU's firmware as well.
const SYSTEM: &str = "/usr";
/// Where other systems have all of it.
const STORES: [&str; 2] = ["/nix/store", "/gnu/store"];
const LOADER_CACHE: &str = "/etc/ld.so.cache";
/// The sockets that it listens on, as it finds them: descriptors from 3 on.
pub(super) const SOCKETS: [&str; 3] = [CONSOLE_SOCKET, WIRE_SOCKET, QMP_SOCKET];

/// The user that a machine's process becomes: none without the rights to make it a root of its own, which root in a container may not have.
pub(super) fn user(ids: Option<IdRange>) -> Option<u32> {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::MKNOD;
    let may = || rustix::thread::capabilities(None).is_ok_and(|own| own.effective.contains(needed));
    ids.filter(|_| rustix::process::geteuid().is_root() && may()).map(|ids| ids.first)
}

/// Starts a machine's process. It is written down before it runs (see [`Launch`]). Blocks.
///
/// # Errors
/// Of the file system, the kernel, or the journal.
pub(super) fn launch(
    machine: &Machine,
    agent: &Path,
    folder: &Path,
    lifetime: Lifetime,
    waiting: bool,
    journal: &Arc<dyn Journal>,
) -> Result<HostProcess> {
    // Where the process finds itself, and so its files.
    let real = fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let files = Files::of(machine, &real);
    files.prepare(machine).context(OPERATION, || "cannot give the machine its files".to_owned())?;
    let owner = if lifetime == Lifetime::Owned { std::process::id() } else { 0 };
    let user = machine.user.map_or_else(|| "-".to_owned(), |user| user.to_string());
    let mut arguments: Vec<OsString> = vec!["confine".into(), owner.to_string().into(), user.into()];
    arguments.extend(SOCKETS.iter().flat_map(|name| ["listen".into(), OsString::from(name)]));
    for (word, paths) in [("read", &files.read), ("write", &files.write), ("device", &files.devices)] {
        arguments.extend(paths.iter().flat_map(|path| [word.into(), path.clone().into_os_string()]));
    }
    let program = fs::canonicalize(&machine.program).unwrap_or_else(|_| machine.program.clone());
    arguments.extend(["--".into(), program.into_os_string()]);
    arguments.extend(machine.arguments(waiting));
    Launch { agent, program: agent, arguments, folder, log: LOG, lifetime, output: None, role: MACHINE_ROLE, journal }.start()
}

/// Absolute paths.
struct Files {
    read: Vec<PathBuf>,
    /// Of those in `read`, what is the store's: somebody else made it.
    own: Vec<PathBuf>,
    write: Vec<PathBuf>,
    devices: Vec<PathBuf>,
}

impl Files {
    fn of(machine: &Machine, folder: &Path) -> Self {
        let absolute = |path: &Path| std::path::absolute(folder.join(path)).unwrap_or_else(|_| folder.join(path));
        let disks = |read_only| machine.disks.iter().filter(move |disk| disk.read_only == read_only).map(|disk| absolute(&disk.path));
        let own: Vec<_> = [&machine.kernel, &machine.initramfs].map(|path| absolute(path)).into_iter().chain(disks(true)).collect();
        let mut write: Vec<_> = disks(false).collect();
        if let Memory::Shared(path) | Memory::View(path) = &machine.memory {
            write.push(absolute(path));
        }
        let mut devices = vec![PathBuf::from("/dev/null")];
        if machine.accelerator == Accelerator::Kvm {
            devices.push("/dev/kvm".into());
        }
        let read = programs(&machine.program).into_iter().chain(own.iter().cloned()).collect();
        Self { read, own, write, devices }
    }

    /// Lets the machine's user have what is for it.
    fn prepare(&self, machine: &Machine) -> io::Result<()> {
        if let Memory::Shared(_) = machine.memory
            && let Some(path) = self.write.last()
        {
            File::options().create(true).truncate(false).write(true).open(path)?.set_len(machine.shape.memory)?;
        }
        let Some(user) = machine.user else { return Ok(()) };
        self.own.iter().try_for_each(|path| open_to_all(path))?;
        for path in &self.write {
            match &machine.memory {
                // QEMU opens what it has a private view of as if it would write it. The folder is nobody else's.
                Memory::View(view) if path.ends_with(view) => fs::set_permissions(path, Permissions::from_mode(0o666))?,
                _ => chown(path, Some(user), Some(user))?,
            }
        }
        Ok(())
    }
}

/// Where a program and what it loads may be.
fn programs(program: &Path) -> Vec<PathBuf> {
    let program = fs::canonicalize(program).unwrap_or_else(|_| program.to_owned());
    let mut paths: Vec<PathBuf> = [SYSTEM, LOADER_CACHE].map(PathBuf::from).into_iter().filter(|path| path.exists()).collect();
    if let Some(store) = STORES.iter().find(|store| program.starts_with(store)) {
        paths.push(store.into());
    } else if !program.starts_with(SYSTEM)
        && let Some(folder) = program.parent()
        && let Some(above) = folder.parent()
    {
        // Beside `/opt/qemu/bin`, as it is laid out by QEMU's own build; not all of `/opt/qemu`, which may be somebody's home.
        let beside = ["lib", "lib64", "libexec", "share/qemu"].map(|name| above.join(name));
        paths.extend([folder.to_owned()].into_iter().chain(beside).filter(|path| path.exists()));
    }
    paths
}

/// Takes back what a machine's user had of files that outlive the machine.
///
/// # Errors
/// Of the file system.
pub(super) fn take_back(machine: &Machine, files: &[PathBuf]) -> io::Result<()> {
    machine.user.map_or(Ok(()), |_| files.iter().try_for_each(|path| chown(path, Some(0), Some(0))))
}
