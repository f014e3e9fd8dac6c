//! Which limits hold, and by what.

use rustix::process::{Resource, getrlimit};
use sandbar_core::{LimitReport, Limits};

use crate::host::{
    cgroup::{AGENT_PROCESSES, Controller, Hierarchies},
    disk, kernel,
};

/// Processes and threads where nothing is asked for: enough for a large parallel build, far below what would hurt a host.
pub(super) const DEFAULT_PIDS: u32 = 4096;
/// Open files of each process where nothing is asked for.
const DEFAULT_OPEN_FILES: u64 = 65_536;

/// Open files that a process may have at most: a limit is never above that of sandbar itself.
pub(super) fn most_open_files() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(1 << 20)
}

/// RLIMIT_NOFILE of every command.
pub(super) fn open_files(limits: &Limits) -> u64 {
    limits.open_files.unwrap_or(DEFAULT_OPEN_FILES).min(most_open_files())
}

/// RLIMIT_NPROC of the agent and of every command: the agent's threads count as root's processes. `None` where it would count others'
/// processes too.
pub(super) fn processes(limits: &Limits) -> Option<u64> {
    kernel::counts_processes_by_namespace().then(|| u64::from(limits.pids.unwrap_or(DEFAULT_PIDS)) + AGENT_PROCESSES)
}

/// The reports, one for each limit, asked for or not.
pub(super) fn reports(limits: &Limits) -> Vec<LimitReport> {
    let host = Hierarchies::of_host();
    let report = |limit: &str, value: Option<u64>, enforced_by: String| LimitReport { limit: limit.to_owned(), value, enforced_by };
    let by_group = |value: Option<u64>, controller: Controller| match (value, host.holder(controller)) {
        (_, None) => "cannot be limited here: no control group for it".to_owned(),
        (None, Some(holder)) => format!("not limited ({holder})"),
        (Some(_), Some(holder)) => holder.to_owned(),
    };
    let cpu = limits.cpu_millis.map(u64::from);
    let pids = u64::from(limits.pids.unwrap_or(DEFAULT_PIDS));
    let by_rlimit = processes(limits).map(|_| "rlimit, for each user inside");
    let by_pids_group = host.holder(Controller::Pids).filter(|holder| limits.pids.is_some() || *holder == "cgroup v2");
    let pids_held: Vec<&str> = by_pids_group.into_iter().chain(by_rlimit).collect();
    vec![
        report("memory", limits.memory, by_group(limits.memory, Controller::Memory)),
        report("cpu", cpu, by_group(cpu, Controller::Cpu)),
        report("pids", Some(pids), if pids_held.is_empty() { "nothing".to_owned() } else { pids_held.join("; ") }),
        report("disk", limits.disk, disk::holder(limits.disk.is_some())),
        report("open-files", Some(open_files(limits)), "rlimit".to_owned()),
    ]
}
