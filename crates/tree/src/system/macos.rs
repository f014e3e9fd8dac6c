use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RawMode, Stat, Uid, fstat, statat};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::path::Path;

use crate::metadata::{Kind, Metadata, Time};

/// There is no holding without opening: the opening waits for nothing, and needs permission to read.
pub(crate) const HELD: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK);
/// The same, of a symbolic link itself where it is one.
pub(crate) const HELD_ITSELF: OFlags = HELD.union(OFlags::SYMLINK);

/// Whether a descriptor with these flags may be one of a symbolic link.
pub(crate) fn holds_links(flags: OFlags) -> bool {
    flags.contains(OFlags::SYMLINK)
}

/// Whether these flags mean a link itself where a path ends in one.
pub(crate) fn names_links(flags: OFlags) -> bool {
    flags.intersects(OFlags::NOFOLLOW | OFlags::SYMLINK)
}

/// The same flags, which follow no link at the end of a path: one is held, or refused.
pub(crate) fn not_following(flags: OFlags) -> OFlags {
    if holds_links(flags) { flags } else { flags | OFlags::NOFOLLOW }
}

/// Permission bits in the kernel's type.
pub(crate) fn mode(bits: u32) -> Mode {
    Mode::from_bits_truncate((bits & 0o7777) as RawMode)
}

/// A device's number, for nothing: none is made.
pub(crate) fn device(_major: u32, _minor: u32) -> u64 {
    0
}

/// Sets the owner of the file behind a descriptor.
pub(crate) fn chown(file: BorrowedFd<'_>, uid: Option<Uid>, gid: Option<Gid>) -> Result<(), Errno> {
    rustix::fs::fchown(file, uid, gid)
}

/// Sets the permission bits of the file behind a descriptor.
pub(crate) fn chmod(file: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    rustix::fs::fchmod(file, mode)
}

/// There are no file systems of kernel knobs.
pub(crate) fn is_kernel_interface(_file: impl AsFd) -> Result<bool, Errno> {
    Ok(false)
}

/// There is no procfs.
pub(crate) fn path_to(_file: BorrowedFd<'_>) -> Result<String, Errno> {
    Err(Errno::NOSYS)
}

/// Descriptors of links cannot be read.
pub(crate) fn read_held_link(_held: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    Err(Errno::NOSYS)
}

/// The text of a symbolic link, by its name.
pub(crate) fn read_link(_held: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<u8>, Errno> {
    rustix::fs::readlinkat(directory, name, Vec::new()).map(std::ffi::CString::into_bytes)
}

/// Devices, pipes and whiteouts are for layers of images.
pub(crate) fn mknodat(_directory: impl AsFd, _name: &OsStr, _kind: FileType, _mode: Mode, _device: u64) -> Result<(), Errno> {
    Err(Errno::OPNOTSUPP)
}

/// There is no sharing with a file that exists.
pub(crate) fn share(_to: BorrowedFd<'_>, _from: BorrowedFd<'_>) -> Result<(), Errno> {
    Err(Errno::OPNOTSUPP)
}

/// There is no such call.
pub(crate) fn copy_file_range(
    _from: BorrowedFd<'_>,
    _read_at: Option<&mut u64>,
    _to: BorrowedFd<'_>,
    _write_at: Option<&mut u64>,
    _length: usize,
) -> Result<usize, Errno> {
    Err(Errno::NOSYS)
}

/// There is no such call: paths are walked by hand.
pub(crate) fn open_in_one_step(
    _start: BorrowedFd<'_>,
    _path: &Path,
    _flags: OFlags,
    _mode: Mode,
    _beneath: bool,
) -> Option<Result<OwnedFd, Errno>> {
    None
}

/// Describes what a descriptor is of.
pub(crate) fn stat(file: BorrowedFd<'_>) -> Result<Metadata, Errno> {
    described(&fstat(file)?)
}

/// Describes what has this name in a directory, links themselves included.
pub(crate) fn stat_name(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Metadata, Errno> {
    described(&statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn described(found: &Stat) -> Result<Metadata, Errno> {
    let (major, minor) = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let time = |seconds, nanoseconds: i64| Time { seconds, nanoseconds: u32::try_from(nanoseconds).unwrap_or(0) };
    Ok(Metadata {
        kind: Kind::of(FileType::from_raw_mode(found.st_mode), major, minor)?,
        size: number(found.st_size),
        allocated: number(found.st_blocks).saturating_mul(512),
        mode: u32::from(found.st_mode) & 0o7777,
        uid: found.st_uid,
        gid: found.st_gid,
        mtime: time(found.st_mtime, found.st_mtime_nsec),
        atime: time(found.st_atime, found.st_atime_nsec),
        links: u32::from(found.st_nlink),
        // An identity is compared, never computed with.
        device: found.st_dev as u64,
        inode: found.st_ino,
        mount_root: None,
    })
}
