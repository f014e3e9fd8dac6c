//! Time, as the ledger writes it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unix milliseconds now.
pub(crate) fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// The longest time that is told apart, milliseconds: the ledger has room for a moment that lies so far from another one.
const LONGEST: u64 = i64::MAX as u64 / 2;

/// A duration in whole milliseconds, at most [`LONGEST`].
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(LONGEST).min(LONGEST)
}
