//! What an image may cost, before anything of it is believed.

/// Limits against archives that are made to exhaust a disk. Exceeding one is `ResourceExhausted`, and leaves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLimits {
    /// Bytes of one layer as it is transferred.
    pub blob_bytes: u64,
    /// Bytes of one layer unpacked.
    pub layer_bytes: u64,
    /// Files, folders and links in one layer.
    pub layer_entries: u64,
    /// How many times larger than its transfer size a layer may be, beyond [`free_bytes`](Self::free_bytes).
    pub expansion: u64,
    /// Bytes that any layer may have unpacked, however small it was in transfer.
    pub free_bytes: u64,
}

impl Default for ImageLimits {
    /// 32 GiB transferred, 64 GiB and four million entries unpacked, 200 times its size beyond the first GiB: real
    /// layers stay under 20 times, and a gzip bomb reaches 1000.
    fn default() -> Self {
        Self { blob_bytes: 32 << 30, layer_bytes: 64 << 30, layer_entries: 4_000_000, expansion: 200, free_bytes: 1 << 30 }
    }
}

impl ImageLimits {
    /// How many bytes of archive a layer of this transfer size may become.
    pub(super) fn unpacked(&self, transferred: u64) -> u64 {
        self.layer_bytes.min(self.free_bytes.saturating_add(transferred.saturating_mul(self.expansion)))
    }
}
