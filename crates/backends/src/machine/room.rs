//! Failures of those that write whole memories, and have no word for a full disk: a monitor whose memory is a file ends by a signal there.

use std::path::Path;

use rustix::fs::statvfs;
use sandbar_core::{Error, ErrorKind};

/// With less than this left in the middle of a failure, that is why. Bytes.
const NOTHING: u64 = 1 << 20;

/// The error of something that wrote into this folder, or `ResourceExhausted` where its disk is full. For where what was written is still there.
pub(super) fn told(error: Error, folder: &Path) -> Error {
    let left = statvfs(folder).ok().map(|told| told.f_bavail.saturating_mul(told.f_frsize));
    if left.is_none_or(|left| left >= NOTHING) || error.kind() == ErrorKind::ResourceExhausted {
        return error;
    }
    Error::new(ErrorKind::ResourceExhausted, "save", "there is no room left on the disk")
        .with("folder", folder.display())
        .with_source(error)
}
