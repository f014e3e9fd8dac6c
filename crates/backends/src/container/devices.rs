//! As root: `/dev` as a mount that belongs to nobody yet.
//!
//! A user namespace can make no device nodes, so a plain user's child mounts the host's one by one. Root makes them, on a file
//! system of the sandbox's own, while the child is busy with its namespaces.

use std::{io, os::fd::OwnedFd};

use rustix::{
    fs::{FileType, Mode, makedev, mkdirat, mknodat, symlinkat},
    mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen},
};
use sandbar_core::{Context, Result};

use crate::host::syscall::with_file_owner;

/// The devices of a sandbox, and no others: name, major, minor.
pub(super) const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
/// Links beside them: name, target.
pub(super) const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// Folders beside them: name, mode. Shared memory lies on the same file system.
pub(super) const FOLDERS: [(&str, u32); 2] = [("pts", 0o755), ("shm", 0o1777)];

/// Options of the file system: as large as shared memory may become.
pub(super) fn options(shared_memory: u64) -> [(&'static str, String); 3] {
    [("mode", "755".to_owned()), ("size", shared_memory.to_string()), ("nr_inodes", "65536".to_owned())]
}

/// Makes it, for a sandbox whose root is `owner` on the host.
///
/// # Errors
/// Of the kernel.
pub(super) fn mount(owner: u32, shared_memory: u64) -> Result<OwnedFd> {
    let make = || -> io::Result<OwnedFd> {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options(shared_memory) {
            fsconfig_set_string(&context, key, value)?;
        }
        fsconfig_create(&context)?;
        let mount =
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
        for (name, major, minor) in DEVICES {
            mknodat(&mount, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))?;
            // The mode asked for is subject to this program's umask.
            rustix::fs::chmodat(&mount, name, Mode::from_raw_mode(0o666), rustix::fs::AtFlags::empty())?;
        }
        for (name, target) in LINKS {
            symlinkat(target, &mount, name)?;
        }
        for (name, mode) in FOLDERS {
            mkdirat(&mount, name, Mode::from_raw_mode(mode))?;
            rustix::fs::chmodat(&mount, name, Mode::from_raw_mode(mode), rustix::fs::AtFlags::empty())?;
        }
        Ok(mount)
    };
    with_file_owner(owner, owner, make).context("container start", || "cannot make /dev".to_owned())
}
