//! How far a pull is, as data; whoever shows it decides how.

use std::sync::Arc;

use super::Digest;

/// One step of a pull. For each layer: `Waiting` or `Fetching` with growing numbers, `Unpacking`, then `Done`; or
/// `Exists` alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// The layer, by the digest it is transferred under.
    pub layer: Digest,
    /// What is happening to it.
    pub stage: Stage,
    /// Bytes there, of the transfer; those of an earlier, interrupted pull included.
    pub done: u64,
    /// Bytes of the whole transfer.
    pub total: u64,
}

/// What is happening to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Another process is fetching it, or other layers come first.
    Waiting,
    /// Its bytes are coming.
    Fetching,
    /// They are there, verified, and being unpacked.
    Unpacking,
    /// It is in the store.
    Done,
    /// It was in the store before.
    Exists,
}

/// Called with each step, from any thread; must not block.
pub type ProgressCallback = Arc<dyn Fn(Progress) + Send + Sync>;
