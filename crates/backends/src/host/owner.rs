//! Whose the files of layers are on this host, for whoever reads and writes layers beside the walls.

use std::io;

use sandbar_core::{Context, Result};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    helper::as_sandbox_root,
    ids::{Ids, is_root},
};

/// How many ids the files of a layer may have here; 1 is "everything belongs to the sandbox's root".
///
/// # Errors
/// When this user's ids cannot be read.
pub fn layer_ids() -> Result<u32> {
    if is_root() { Ok(u32::MAX) } else { Ok(Ids::of_sandbox(None)?.count()) }
}

/// Does work on the files of layers, with the ids of sandboxes: as root they are in the layers as they are; a plain user's are mapped, and
/// the work is done by a process of its own in a user namespace, which must open what it needs by path.
///
/// # Errors
/// What the work says; `Unavailable` when there is no such namespace to be had.
pub fn as_layer_owner<T: Serialize + DeserializeOwned>(work: impl FnOnce() -> io::Result<T>) -> Result<T> {
    if is_root() {
        return work().context("layer", || "cannot work on a layer".to_owned());
    }
    as_sandbox_root(&Ids::of_sandbox(None)?, work)
}
