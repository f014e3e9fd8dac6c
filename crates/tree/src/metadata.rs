//! What the kernel knows about one file, in the same types on every architecture.

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{AtFlags, FileType, Statx, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;
use std::ffi::OsStr;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
    /// A character device. `0/0` is an overlay whiteout: "the name is gone".
    CharDevice {
        /// Device major number.
        major: u32,
        /// Device minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Device major number.
        major: u32,
        /// Device minor number.
        minor: u32,
    },
}

impl Kind {
    /// Whether this is the character device `0/0`, by which overlayfs marks a removed name.
    pub fn is_whiteout(self) -> bool {
        self == Self::CharDevice { major: 0, minor: 0 }
    }
}

/// A point in time: seconds since 1970 UTC, possibly negative, and nanoseconds after that second (`0..1_000_000_000`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Whole seconds since 1970 UTC, rounded down.
    pub seconds: i64,
    /// Nanoseconds since that second.
    pub nanoseconds: u32,
}

/// What `stat` tells about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metadata {
    /// What it is.
    pub kind: Kind,
    /// Size in bytes; for a symbolic link the length of its target.
    pub size: u64,
    /// Bytes it occupies on its file system.
    pub allocated: u64,
    /// Permission bits, with setuid, setgid and sticky (`0..=0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the contents.
    pub mtime: Time,
    /// Last access.
    pub atime: Time,
    /// Number of names (hard links).
    pub links: u32,
    /// The file system it is on.
    pub device: u64,
    /// Its number there.
    pub inode: u64,
    mount_root: Option<bool>,
}

impl Metadata {
    /// Of an open descriptor, of any kind, `O_PATH` included.
    pub(crate) fn of(file: impl AsFd) -> Result<Self, Errno> {
        read(file.as_fd(), OsStr::new(""), AtFlags::EMPTY_PATH)
    }

    /// Of one name in a directory; a symbolic link is described, not followed.
    pub(crate) fn of_name(directory: impl AsFd, name: &OsStr) -> Result<Self, Errno> {
        read(directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Which file it is: file system and number.
    pub(crate) fn identity(&self) -> Identity {
        Identity { device: self.device, inode: self.inode }
    }

    /// Whether something is mounted exactly here. Where the kernel does not tell (before 5.8, gVisor), a file system
    /// other than the parent's is taken for one.
    pub(crate) fn is_mount_point(&self, parent: Identity) -> bool {
        self.mount_root.unwrap_or(self.device != parent.device)
    }
}

/// Which file it is: two names with one identity are one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

fn read(directory: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> Result<Metadata, Errno> {
    let found = statx(directory, name, flags | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS)?;
    let mode = u32::from(found.stx_mode);
    Ok(Metadata {
        kind: kind(&found, mode)?,
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

fn kind(found: &Statx, mode: u32) -> Result<Kind, Errno> {
    let (major, minor) = (found.stx_rdev_major, found.stx_rdev_minor);
    Ok(match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::CharDevice { major, minor },
        FileType::BlockDevice => Kind::BlockDevice { major, minor },
        // Anonymous kernel objects have no type; no path leads to one.
        FileType::Unknown => return Err(Errno::OPNOTSUPP),
    })
}
