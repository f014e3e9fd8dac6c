//! Time and boots, as the ledger writes them.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sandbar_core::{Context, Result};

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

/// The kernel's name of this boot: another one means that every process, control group and mount of before is gone.
pub(crate) fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).context("state", || format!("cannot read {path}"))?.trim().to_owned())
}
