use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Statx, StatxAttributes, StatxFlags, Uid, openat2, statx};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::OnceLock;

use crate::metadata::{Kind, Metadata, Time};

pub(crate) use super::procfs::{chmod, is_kernel_interface, path_to};
pub(crate) use rustix::fs::{copy_file_range, mknodat};

/// Holds a file of any type without opening it.
pub(crate) const HELD: OFlags = OFlags::PATH;
/// The same, of a symbolic link itself where it is one.
pub(crate) const HELD_ITSELF: OFlags = HELD.union(OFlags::NOFOLLOW);

/// How often a lookup that raced with a rename is tried again; each try is an independent chance.
const TRIES: u32 = 64;

/// Whether a descriptor with these flags may be one of a symbolic link.
pub(crate) fn holds_links(flags: OFlags) -> bool {
    flags.contains(OFlags::PATH)
}

/// Whether these flags mean a link itself where a path ends in one.
pub(crate) fn names_links(flags: OFlags) -> bool {
    flags.contains(OFlags::NOFOLLOW)
}

/// The same flags, which follow no link at the end of a path: one is held, or refused.
pub(crate) fn not_following(flags: OFlags) -> OFlags {
    flags | OFlags::NOFOLLOW
}

/// Permission bits in the kernel's type.
pub(crate) fn mode(bits: u32) -> Mode {
    Mode::from_raw_mode(bits)
}

/// A device's number.
pub(crate) fn device(major: u32, minor: u32) -> u64 {
    rustix::fs::makedev(major, minor)
}

/// Sets the owner of the file behind any descriptor.
pub(crate) fn chown(file: BorrowedFd<'_>, uid: Option<Uid>, gid: Option<Gid>) -> Result<(), Errno> {
    rustix::fs::chownat(file, "", uid, gid, AtFlags::EMPTY_PATH)
}

/// The text of a symbolic link that is held.
pub(crate) fn read_held_link(held: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    rustix::fs::readlinkat(held, "", Vec::new()).map(std::ffi::CString::into_bytes)
}

/// The same of one whose name in its directory is known, which other kernels need.
pub(crate) fn read_link(held: BorrowedFd<'_>, _directory: BorrowedFd<'_>, _name: &OsStr) -> Result<Vec<u8>, Errno> {
    read_held_link(held)
}

/// Makes an empty file share the blocks of another.
pub(crate) fn share(to: BorrowedFd<'_>, from: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::ioctl_ficlone(to, from)
}

/// Opens a path in one call, which leads nowhere above the start if it is `beneath`; `None` where the kernel has no such call. Links of procfs that are not text are not followed.
pub(crate) fn open_in_one_step(
    start: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    beneath: bool,
) -> Option<Result<OwnedFd, Errno>> {
    if !has_openat2() {
        return None;
    }
    let resolve = if beneath { ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS } else { ResolveFlags::NO_MAGICLINKS };
    // openat2 insists that a mode comes only with a flag that uses it.
    let mode = if flags.contains(OFlags::CREATE) { mode } else { Mode::empty() };
    let mut tries = 1;
    loop {
        match openat2(start, path, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) if tries < TRIES => tries += 1,
            done => return Some(done),
        }
    }
}

/// Asked once: a filter may answer `EPERM` for a call that it does not know.
fn has_openat2() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat2(CWD, "/", flags, Mode::empty(), ResolveFlags::NO_MAGICLINKS).is_ok()
    })
}

/// Describes what a descriptor is of.
pub(crate) fn stat(file: BorrowedFd<'_>) -> Result<Metadata, Errno> {
    described(&statx(file, "", AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS)?)
}

/// Describes what has this name in a directory, links themselves included.
pub(crate) fn stat_name(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Metadata, Errno> {
    described(&statx(directory, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS)?)
}

fn described(found: &Statx) -> Result<Metadata, Errno> {
    let mode = u32::from(found.stx_mode);
    Ok(Metadata {
        kind: Kind::of(FileType::from_raw_mode(mode), found.stx_rdev_major, found.stx_rdev_minor)?,
        size: found.stx_size,
        allocated: found.stx_blocks.saturating_mul(512),
        mode: mode & 0o7777,
        uid: found.stx_uid,
        gid: found.stx_gid,
        mtime: Time { seconds: found.stx_mtime.tv_sec, nanoseconds: found.stx_mtime.tv_nsec },
        atime: Time { seconds: found.stx_atime.tv_sec, nanoseconds: found.stx_atime.tv_nsec },
        links: found.stx_nlink,
        device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        mount_root: found
            .stx_attributes_mask
            .contains(StatxAttributes::MOUNT_ROOT)
            .then(|| found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
    })
}
