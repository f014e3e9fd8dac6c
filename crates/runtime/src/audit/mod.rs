//! Who did what to which sandbox, and what became of it.
//!
//! | module | noun |
//! |---|---|
//! | `record` | [`AuditRecord`], [`Actor`]: one line, and who |
//! | `ending` | the end of a command, for whoever waits for it |
//! | `deed` | `Deed`: a verb from its beginning to its outcome |
//! | `writer` | where lines are added, by any number of processes |
//! | `log` | [`AuditLog`], [`AuditPlace`]: what is kept, and a place in it |
//!
//! The log is files beside the ledger and not a table in it, since a line is added for every command: that takes some microseconds, and would be a transaction, for which
//! processes wait for one another. It holds no arguments, no variables and no content.

mod deed;
mod ending;
mod log;
mod record;
mod writer;

pub use log::{AuditFilter, AuditLog, AuditPlace};
pub use record::{Actor, AuditRecord};

pub(crate) use writer::AuditWriter;

use std::path::{Path, PathBuf};

/// Bytes from which a part is followed by another one: some twenty thousand lines.
const ENOUGH: u64 = 4 << 20;
/// Parts that are kept.
const KEPT: u64 = 8;

/// A part's file.
fn part(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number}.log"))
}

/// The numbers of the parts that are there, in order.
fn parts(folder: &Path) -> std::io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut numbers = Vec::new();
    for entry in entries {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}
