use sandbar_protocol::{UsageReport, reply};

use crate::{failure::Result, procfs, transfer::Link};

/// What the processes use: all that are seen, where they are the sandbox's own, but not what its kernel does for itself; otherwise the agent and its descendants.
pub(crate) fn report(init: bool, link: &mut Link) -> Result<()> {
    let own = rustix::process::getpid().as_raw_pid();
    let mut rows = if init { procfs::all() } else { procfs::descendants(own) };
    if !init {
        rows.extend(procfs::of(own));
    }
    rows.retain(|row| !row.is_of_the_kernel);
    let page = rustix::param::page_size() as u64;
    let second = rustix::param::clock_ticks_per_second().max(1);
    let ticks: u64 = rows.iter().map(|row| row.ticks).fold(0, u64::saturating_add);
    link.answer(reply::Answer::Usage(UsageReport {
        memory_bytes: rows.iter().map(|row| row.pages.saturating_mul(page)).fold(0, u64::saturating_add),
        cpu_micros: ticks.saturating_mul(1_000_000 / second),
        pids: rows.len() as u64,
    }))
}
