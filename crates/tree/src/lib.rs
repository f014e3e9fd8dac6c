//! File trees beneath a directory descriptor, for the agent inside a sandbox and for the runtime outside of it.
//!
//! Everything here assumes an enemy on the other side: archives written by strangers, and directories that hostile
//! processes change while they are being read. So no path is ever resolved twice, nothing is checked by name and then
//! used by name, and what a stream may cost is bounded before it is spent.
//!
//! | module | noun |
//! |---|---|
//! | `beneath` | [`Base`]: a directory and what paths may reach from it; every single-path operation |
//! | `listing` | [`ReadDir`], [`DirEntry`]: what a directory holds |
//! | `metadata` | [`Metadata`], [`Kind`], [`Time`] |
//! | `pack` | [`pack()`]: a tree out as a tar stream; [`pack_merged`]: what an overlay of several shows |
//! | `unpack` | [`unpack()`]: a tar stream in, as a tree |
//! | `copy`, `measure` | [`copy_tree`], [`measure()`]: an overlay's upper layer, duplicated or weighed |
//! | `remove` | [`remove_tree`], [`remove_contents`]: everything below a name, without following links |
//! | `error` | [`Error`], [`ErrorKind`] |
//!
//! Below those, private: `resolve` (openat2, and the same by hand where a kernel lacks it), `nofollow` (one name at a
//! time), `ladder` (any depth with few descriptors), `procfs`, `xattr`, `content` (file data), `archive`, `record` and
//! `entry_path` (tar read), `emit` (tar written).
//!
//! All of it is synchronous, Linux only, and needs no privilege beyond what the tree itself asks for.

mod archive;
mod beneath;
mod content;
mod copy;
mod emit;
mod entry_path;
mod error;
mod ladder;
mod listing;
mod measure;
mod metadata;
mod nofollow;
mod pack;
mod record;
mod remove;
mod resolve;
mod system;
mod unpack;
mod xattr;

pub use beneath::{Access, Base, Removal, Symlinks};
pub use copy::{Copied, copy_tree};
pub use error::{Error, ErrorKind, Result};
pub use listing::{DirEntry, ReadDir};
pub use measure::{Measured, measure};
pub use metadata::{Kind, Metadata, Time};
pub use pack::{Below, MergeOptions, PackOptions, PackWhiteouts, Packed, Shown, pack, pack_merged};
pub use remove::{remove_contents, remove_tree};
pub use unpack::{Limits, Owner, UnpackOptions, Unpacked, Whiteouts, unpack, unpack_untrusted};
pub use xattr::OverlayNamespace;
