use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a checkpoint holds.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckpointKind {
    /// The writable layer. Portable to any provider that takes the image.
    Disk,
    /// The layer and the processes. Bound to provider, versions and CPU.
    Memory,
}

/// What to save, and where.
#[derive(Debug, Clone)]
pub struct CheckpointOptions {
    /// What to save.
    pub kind: CheckpointKind,
    /// An existing empty folder that the provider fills: `layer/` (the writable layer as an overlay layer, in the host's own form) and
    /// for `Memory` whatever it needs beside it. The runtime renames it into place when the call has succeeded.
    pub into: PathBuf,
}

/// What was renewed when a sandbox began from saved memory: two of them must differ where it matters, and know the time. By the agent's own
/// account: a claim.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// A line for each thing: `clock: stepped by 12.500 s`.
    pub done: Vec<String>,
    /// A line for each thing that could not be renewed, with the reason.
    pub failed: Vec<String>,
}

/// What was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedCheckpoint {
    /// What it holds.
    pub kind: CheckpointKind,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and folders of the layer.
    pub files: u64,
    /// The provider's own record (versions, CPU, offsets), needed to load it again.
    pub record: Value,
}
