//! What walls around virtual machines share: of what a machine is made, and the programs on this host that are one.
//!
//! | module | noun |
//! |---|---|
//! | `claimed` | what every machine has |
//! | `boot` | a boot with everything owned: the guest's configuration, and what the machine is put together from |
//! | `shape` | memory, processors and disk of a machine; which limits hold, and by what |
//! | `share` | volumes: a process for each serves it to the guest |
//! | `template` | which machines can begin as copies of one |
//! | `launched` | programs of this host that are a machine: known to the ledger before they run, and reaped |
//! | `layer` | the writable layer, which only the machine's own agent can give |
//! | `files` | files with holes: copied, weighed, dug |
//! | `record` | the record of a machine, in its generation's folder |
//! | `programs` | what else makes a machine, and how to get it |
//! | `why` | what a machine's console says of its end |
//!
//! The guest is the same behind every monitor: a distribution's kernel (the crate `sandbar-guest`) with the agent as its first process.

mod boot;
mod claimed;
mod files;
mod launched;
mod layer;
mod programs;
mod record;
mod shape;
mod share;
mod template;
mod why;

pub(crate) use boot::{CONFIG, Disk, Materials, OwnedBoot, SAVED, SCRATCH, kernel};
pub(crate) use claimed::{FEATURES, LIMITS, VOLUMES};
pub(crate) use files::{copy, dig, occupied, open_to_all, remove};
pub(crate) use launched::{Launch, end, how_ended, start_console, start_pipe, start_share};
pub(crate) use layer::{Fetched, fetch_layer};
pub(crate) use programs::{require_programs, try_disks};
pub(crate) use record::{read_record, require, write_record};
pub(crate) use shape::{DiskRate, Shape, reports, usage};
pub(crate) use share::{Shares, Sharing, check_volumes, refuse_memory};
pub(crate) use template::{Engine, template};
pub(crate) use why::said;

use std::time::Duration;

use sandbar_core::{Error, ErrorKind, Result};

/// What a guest may take to write its disks when it is stopped: its cache is as large as its memory.
pub(crate) const SETTLING: Duration = Duration::from_secs(60);

/// The model of the host's processors.
pub(crate) fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim().to_owned()));
    model.unwrap_or_else(|| "an unknown processor".to_owned())
}

/// Runs work of a monitor elsewhere that blocks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::new(ErrorKind::Internal, "machine", "a blocking task ended early").with_source(error)),
    }
}
