//! What the store tells about images.

use std::collections::BTreeMap;

use sandbar_core::User;
use serde::Serialize;

use super::Digest;

/// One image of the store.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageSummary {
    /// The digest of its configuration.
    pub id: Digest,
    /// Its names, sorted; may be none.
    pub names: Vec<String>,
    /// Bytes of all its layers, unpacked. Layers may be shared with other images.
    pub bytes: u64,
    /// The digests of its layers, lowest first.
    pub layers: Vec<Digest>,
    /// When it says that it was made, as it says it.
    pub created: Option<String>,
    /// When it came here, milliseconds since 1970.
    pub added_ms: u64,
    /// Where it came from.
    pub origin: String,
    /// The digest of its manifest, if it came with one: what `NAME@DIGEST` means.
    pub manifest: Option<Digest>,
    /// The environment of its commands.
    pub env: BTreeMap<String, String>,
    /// Their working directory.
    pub workdir: Option<String>,
    /// Their user.
    pub user: Option<User>,
    /// What the image starts, before the arguments. Kept for those who ask; `run` starts what it is told to.
    pub entrypoint: Vec<String>,
    /// The default arguments, or the command where there is no entrypoint.
    pub cmd: Vec<String>,
}

/// What a removal did.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The image.
    pub id: Digest,
    /// The names that it lost.
    pub names: Vec<String>,
    /// Whether it keeps another name, and so stays.
    pub named: bool,
    /// Whether a sandbox or a checkpoint still needs its layers; they go with the last of those.
    pub in_use: bool,
    /// What was removed from the disk.
    pub collected: Collected,
}

/// What a collection removed from the disk.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Layers that no image needs any more.
    pub layers: u64,
    /// The bytes that were in them.
    pub bytes: u64,
    /// Skeletons of the image `host` from before the host changed.
    pub skeletons: u64,
    /// Leavings of processes that were killed.
    pub leavings: u64,
    /// Somebody is adding an image or making a sandbox at this moment: layers were left alone, until next time.
    pub busy: bool,
}
