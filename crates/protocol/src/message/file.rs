//! Files and trees.

use prost::{Enumeration, Message};

/// An owner.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Owner {
    /// User.
    #[prost(uint32, tag = "1")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "2")]
    pub gid: u32,
}

/// Where and how to put.
#[derive(Clone, PartialEq, Message)]
pub struct Put {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Permission bits.
    #[prost(uint32, optional, tag = "2")]
    pub mode: Option<u32>,
    /// Owner; the sandbox's user when absent.
    #[prost(message, optional, tag = "3")]
    pub owner: Option<Owner>,
    /// Make missing parents.
    #[prost(bool, tag = "4")]
    pub make_parents: bool,
    /// Refuse to replace.
    #[prost(bool, tag = "5")]
    pub no_replace: bool,
}

/// What to get.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Target {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// The first byte wanted.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
}

/// Lists a directory.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReadDir {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
}

/// Asks what a path is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Stat {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Follow a symbolic link.
    #[prost(bool, tag = "2")]
    pub follow: bool,
}

/// Makes a directory.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MakeDir {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Make missing parents; an existing directory is no error.
    #[prost(bool, tag = "2")]
    pub parents: bool,
    /// Permission bits; 0755 when absent.
    #[prost(uint32, optional, tag = "3")]
    pub mode: Option<u32>,
}

/// Renames.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Rename {
    /// From.
    #[prost(bytes = "vec", tag = "1")]
    pub from: Vec<u8>,
    /// To.
    #[prost(bytes = "vec", tag = "2")]
    pub to: Vec<u8>,
    /// Refuse to replace.
    #[prost(bool, tag = "3")]
    pub no_replace: bool,
}

/// Makes a symbolic link.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Symlink {
    /// Where it points.
    #[prost(bytes = "vec", tag = "1")]
    pub target: Vec<u8>,
    /// Where it stands.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
}

/// Removes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Remove {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// With everything in it.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
    /// A missing path is no error.
    #[prost(bool, tag = "3")]
    pub missing_ok: bool,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum KindOfFile {
    /// A device, fifo or socket.
    Other = 0,
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
}

/// What is known of a path.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// The name in its directory; empty in the answer to `Stat`.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// What it is.
    #[prost(enumeration = "KindOfFile", tag = "2")]
    pub kind: i32,
    /// Bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// Permission bits.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "5")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "6")]
    pub gid: u32,
    /// Unix nanoseconds.
    #[prost(int64, tag = "7")]
    pub modified_ns: i64,
    /// Where a symbolic link points.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub symlink_target: Option<Vec<u8>>,
}

/// A batch of entries.
#[derive(Clone, PartialEq, Message)]
pub struct DirEntries {
    /// The entries.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    /// No batch follows.
    #[prost(bool, tag = "2")]
    pub last: bool,
}

/// Watches a path.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Watch {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// With everything below.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
}

/// A change of a watched path.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WatchEvent {
    /// 0 overflow, 1 created, 2 modified, 3 removed, 4 attributes.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// Relative to the watched path.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
    /// Whether it is a directory.
    #[prost(bool, tag = "3")]
    pub is_directory: bool,
}
