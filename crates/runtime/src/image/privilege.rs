//! Whether this process may give files away: it decides in which form layers are unpacked.

use std::fs;

use sandbar_tree::{OverlayNamespace, Owner};

/// Whose files a store's layers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Privilege {
    /// Root of the initial user namespace: owners are kept, overlay's marks are in `trusted.*`.
    Root,
    /// Anybody else, root of another user namespace included: everything belongs to the user, marks are in `user.*`
    /// (overlay's option `userxattr`).
    User,
}

impl Privilege {
    pub(super) fn here() -> Self {
        // A namespace's root can give away only its own ids, and cannot set `trusted.*`.
        let initial = fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]));
        if initial && rustix::process::geteuid().is_root() { Self::Root } else { Self::User }
    }

    pub(super) fn owner(self) -> Owner {
        match self {
            Self::Root => Owner::Keep,
            Self::User => Owner::Ignore,
        }
    }

    pub(super) fn overlay(self) -> OverlayNamespace {
        match self {
            Self::Root => OverlayNamespace::Trusted,
            Self::User => OverlayNamespace::User,
        }
    }
}
