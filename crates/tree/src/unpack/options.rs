//! What may come out of an archive, and what did.

use crate::xattr::OverlayNamespace;

/// To whom unpacked things belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// To the ids in the archive. Needs the privilege to give things away; names of users are not looked at.
    Keep,
    /// To whoever unpacks.
    Ignore,
    /// To these ids, made parents included.
    Fixed {
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
}

/// What names that begin with `.wh.` mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// They are refused.
    Refuse,
    /// Nothing: they are names like others.
    Literal,
    /// They are the whiteouts of an OCI layer, and become overlayfs's own: `.wh.NAME` a character device `0/0`, and
    /// `.wh..wh..opq` the attribute `opaque` of its directory, in the given namespace.
    ///
    /// For a directory that holds one layer and nothing else. What the layer itself has under a hidden name stays, as
    /// a whiteout speaks of the layers below; such a directory becomes opaque.
    Oci(OverlayNamespace),
}

/// What an archive may cost. Exceeding one is [`ErrorKind::LimitExceeded`](crate::ErrorKind::LimitExceeded).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of content in all, extended headers included.
    pub bytes: u64,
    /// Entries in all.
    pub entries: u64,
    /// Bytes in one name (one component of a path).
    pub name: usize,
    /// Bytes in one path.
    pub path: usize,
}

impl Default for Limits {
    /// 64 GiB, four million entries, and Linux's own limits of 255 and 4096 for names and paths.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 4_000_000, name: 255, path: 4096 }
    }
}

/// How to unpack. The default trusts nothing: things belong to whoever unpacks, and what is special is refused or
/// dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackOptions {
    /// To whom things belong. Default: [`Owner::Ignore`].
    pub owner: Owner,
    /// Whether to make devices; otherwise an archive with one is refused. Default: no.
    pub devices: bool,
    /// A folder at the top (`dev`) below which devices are left out instead, whatever [`devices`](Self::devices) says. Default:
    /// none.
    pub devices_left_out_of: Option<&'static str>,
    /// Whether to keep setuid and setgid; otherwise they are dropped. Default: no.
    pub set_id: bool,
    /// Whether to set `security.capability`; otherwise it is dropped. Default: no.
    pub capabilities: bool,
    /// Whether to set `trusted.overlay.*` and `user.overlay.*`; otherwise they are dropped. Only for archives that
    /// this program packed itself: they can redirect a directory to another. Default: no.
    pub overlay_attributes: bool,
    /// What names that begin with `.wh.` mean. Default: [`Whiteouts::Literal`].
    pub whiteouts: Whiteouts,
    /// What the archive may cost.
    pub limits: Limits,
}

impl Default for UnpackOptions {
    fn default() -> Self {
        Self {
            owner: Owner::Ignore,
            devices: false,
            devices_left_out_of: None,
            set_id: false,
            capabilities: false,
            overlay_attributes: false,
            whiteouts: Whiteouts::Literal,
            limits: Limits::default(),
        }
    }
}

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries in the archive, whiteouts included.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes in those files.
    pub bytes: u64,
    /// Devices left out, because the options say so.
    pub devices_skipped: u64,
    /// Extended attributes dropped, because the options or the file system do not take them.
    pub attributes_skipped: u64,
    /// Entries of AUFS's bookkeeping (`.wh..wh.plnk` …) that old OCI layers hold and nobody reads.
    pub markers_skipped: u64,
}
