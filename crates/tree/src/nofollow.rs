//! One name at a time: directories opened and listed without ever following a symbolic link.

use crate::metadata::Metadata;
use crate::system::{self, HELD, HELD_ITSELF};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens a directory of this very name, to be listed. A symbolic link gives `ENOTDIR` or `ELOOP`.
pub(crate) fn open_directory(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, DIRECTORY | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty())
}

/// Opens a directory of this very name, to go through it; needs no permission to list it.
pub(crate) fn enter_directory(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, DIRECTORY | HELD, Mode::empty())
}

/// As [`open_directory`], for a directory that is ours to do with as we like: one that its owner has closed is opened
/// up first, if that is permitted and procfs is there.
pub(crate) fn open_closed_directory(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    match open_directory(&parent, name) {
        Err(Errno::ACCESS) => {
            let held = enter_directory(parent, name)?;
            unlock(&held)?;
            open_directory(held, OsStr::new("."))
        }
        opened => opened,
    }
}

/// Lets the owner list, change and go through a directory; `EACCES` if that is not for us to do.
pub(crate) fn unlock(directory: impl AsFd) -> Result<(), Errno> {
    let mode = Metadata::of(&directory)?.mode;
    if mode & 0o700 == 0o700 {
        return Ok(());
    }
    match system::chmod(directory.as_fd(), system::mode(mode | 0o700)) {
        Err(Errno::PERM | Errno::NOSYS) => Err(Errno::ACCESS),
        done => done,
    }
}

/// A descriptor for whatever has this name, symbolic links included, without opening it: no device is touched, no
/// pipe is waited for.
pub(crate) fn hold(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    openat(parent, name, HELD_ITSELF | OFlags::CLOEXEC, Mode::empty())
}

/// Opens what should be a regular file, for reading; a pipe does not block. The caller checks what it got.
pub(crate) fn open_for_reading(parent: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Goes down several names, following no link.
pub(crate) fn enter<'name>(root: impl AsFd, names: impl IntoIterator<Item = &'name OsStr>) -> Result<OwnedFd, Errno> {
    let mut here = enter_directory(root, OsStr::new("."))?;
    for name in names {
        here = enter_directory(&here, name)?;
    }
    Ok(here)
}

/// The names in a directory without `.` and `..`, unsorted, at most `limit`, those in `skip` left out.
pub(crate) fn names(directory: impl AsFd, limit: usize, skip: impl Fn(&OsStr) -> bool) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." && !skip(name) {
            names.push(name.to_owned());
            if names.len() == limit {
                break;
            }
        }
    }
    Ok(names)
}

/// All names in a directory, in descending order of their bytes, so that `pop` yields them in ascending order.
pub(crate) fn names_to_pop(directory: impl AsFd) -> Result<Vec<OsString>, Errno> {
    let mut names = names(directory, usize::MAX, |_| false)?;
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}
