//! Which limits hold, and by what.

use rustix::process::{Resource, getrlimit};
use sandbar_core::{Isolation, LimitReport, Limits};

/// Processes and threads where nothing is asked for: enough for a large parallel build, far below what would hurt a host.
const DEFAULT_PIDS: u32 = 4096;
/// Open files of each process where nothing is asked for.
const DEFAULT_OPEN_FILES: u64 = 65_536;
/// Processes and threads that the agent needs for itself, beyond those asked for.
pub(super) const AGENT_PROCESSES: u32 = 2;

/// Processes that a sandbox may have.
pub(super) fn pids(limits: &Limits) -> u32 {
    limits.pids.unwrap_or(DEFAULT_PIDS)
}

/// Open files that a process may have at most, the agent above all, which holds some for every connection.
pub(super) fn most_open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20)
}

/// Open files of each command.
pub(super) fn open_files(limits: &Limits) -> u64 {
    limits.open_files.unwrap_or(DEFAULT_OPEN_FILES).min(most_open_files())
}

/// The reports, one for each limit, asked for or not. `groups` is what the engine says of its control groups.
pub(super) fn reports(limits: &Limits, isolation: Isolation, groups: &str) -> Vec<LimitReport> {
    let report = |limit: &str, value: Option<u64>, enforced_by: &str| LimitReport {
        limit: limit.to_owned(),
        value,
        enforced_by: if value.is_some() { enforced_by.to_owned() } else { format!("not limited ({enforced_by})") },
    };
    // A kernel in user space needs threads of its own, which a group would count.
    let processes = if isolation == Isolation::UserKernel { "rlimit, for each user inside" } else { groups };
    vec![
        report("memory", limits.memory, groups),
        report("cpu", limits.cpu_millis.map(u64::from), groups),
        report("pids", Some(u64::from(pids(limits))), processes),
        report("disk", limits.disk, "the engine's storage driver has no quota here"),
        report("open-files", Some(open_files(limits)), "rlimit"),
    ]
}
