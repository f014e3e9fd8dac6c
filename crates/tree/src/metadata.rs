//! What the kernel knows about one file, in the same types on every architecture.

use rustix::fd::AsFd;
use rustix::fs::FileType;
use rustix::io::Errno;
use std::ffi::OsStr;

use crate::system;

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
    /// Of a type, and of the device's numbers where it is one.
    pub(crate) fn of(file_type: FileType, major: u32, minor: u32) -> Result<Self, Errno> {
        Ok(match file_type {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::CharacterDevice => Self::CharDevice { major, minor },
            FileType::BlockDevice => Self::BlockDevice { major, minor },
            // Anonymous kernel objects have no type; no path leads to one.
            FileType::Unknown => return Err(Errno::OPNOTSUPP),
        })
    }

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
    pub(crate) mount_root: Option<bool>,
}

impl Metadata {
    /// Of an open descriptor, of any kind, `O_PATH` included.
    pub(crate) fn of(file: impl AsFd) -> Result<Self, Errno> {
        system::stat(file.as_fd())
    }

    /// Of one name in a directory; a symbolic link is described, not followed.
    pub(crate) fn of_name(directory: impl AsFd, name: &OsStr) -> Result<Self, Errno> {
        system::stat_name(directory.as_fd(), name)
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
