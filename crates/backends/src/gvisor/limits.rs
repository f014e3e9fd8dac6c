//! Which limits hold, and by what.

use rustix::process::{Resource, getrlimit};
use sandbar_core::{LimitReport, Limits};

use crate::host::{
    cgroup::{AGENT_PROCESSES, Controller, Hierarchies},
    disk,
};

/// Processes and threads where nothing is asked for: enough for a large parallel build, far below what would hurt a host.
const DEFAULT_PIDS: u32 = 4096;
/// Open files of each process where nothing is asked for.
const DEFAULT_OPEN_FILES: u64 = 65_536;

/// Bytes of memory beyond the limit for the sentry, the gofer and the agent: at rest they have 20 MiB (measured, runsc 20240729). A sentry
/// without memory cannot notice that the kernel has ended a process, and give back what that one had: the kernel then ends the next.
const SENTRY_ROOM: u64 = 64 << 20;

/// Open files that a process of the host may have at most.
pub(super) fn most_open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20)
}

/// RLIMIT_NOFILE of every command. Files inside are the sentry's, so this program's own limit says nothing about it.
pub(super) fn open_files(limits: &Limits) -> u64 {
    limits.open_files.unwrap_or(DEFAULT_OPEN_FILES)
}

/// RLIMIT_NPROC of the agent and of every command: the agent's threads count as root's processes.
pub(super) fn processes(limits: &Limits) -> u64 {
    u64::from(limits.pids.unwrap_or(DEFAULT_PIDS)) + AGENT_PROCESSES
}

/// What the control groups of all of a sandbox have to hold: not the processes, for a group counts the sentry's threads, which it cannot do without;
/// and memory for the sentry beside the limit, which the group of what runs inside has (`cgroup/confine`).
pub(super) fn of_groups(limits: &Limits) -> Limits {
    Limits { pids: None, memory: limits.memory.map(|memory| memory.saturating_add(SENTRY_ROOM)), ..*limits }
}

/// The reports, one for each limit, asked for or not.
pub(super) fn reports(limits: &Limits) -> Vec<LimitReport> {
    let host = Hierarchies::of_host();
    let report = |limit: &str, value: Option<u64>, enforced_by: String| LimitReport { limit: limit.to_owned(), value, enforced_by };
    let by_group = |value: Option<u64>, controller: Controller, sentry: &str| match (value, host.holder(controller)) {
        (_, None) => "cannot be limited here: no control group for it".to_owned(),
        (None, Some(holder)) => format!("not limited ({holder})"),
        (Some(_), Some(holder)) => format!("{holder}, the sentry {sentry}"),
    };
    let beside = format!("with {} MiB beside it", SENTRY_ROOM >> 20);
    let cpu = limits.cpu_millis.map(u64::from);
    let pids = u64::from(limits.pids.unwrap_or(DEFAULT_PIDS));
    vec![
        report("memory", limits.memory, by_group(limits.memory, Controller::Memory, &beside)),
        report("cpu", cpu, by_group(cpu, Controller::Cpu, "included")),
        report("pids", Some(pids), "rlimit in the sentry, for each user inside".to_owned()),
        report("disk", limits.disk, disk::holder(limits.disk.is_some())),
        report("open-files", Some(open_files(limits)), "rlimit in the sentry".to_owned()),
    ]
}
