use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use sandbar_core::{Context, Journal, Limits, Resource, Result};
use serde::{Deserialize, Serialize};

use super::{Controller, Hierarchies, confine::INSIDE, remove};

const OPERATION: &str = "sandbox limits";
/// Microseconds over which CPU time is counted: the kernel's own default.
const CPU_PERIOD: u64 = 100_000;
/// Processes and threads of the agent that are always there: its event loop, and the thread that starts commands. Threads for files come
/// out of the sandbox's own share: at the limit they are refused, as commands are.
pub(crate) const AGENT_PROCESSES: u64 = 2;

/// The groups of one sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Groups {
    /// In the v2 hierarchy.
    pub(super) unified: Option<PathBuf>,
    /// In v1 hierarchies.
    pub(super) v1: Vec<(Controller, PathBuf)>,
}

/// Groups that were just made, and what the child needs to get into them.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) groups: Groups,
    /// The folder of the v2 group, for `CLONE_INTO_CGROUP`.
    pub(crate) unified: Option<OwnedFd>,
    /// The files of threads of the v1 groups.
    pub(crate) threads: Vec<OwnedFd>,
}

impl Groups {
    /// Makes them. Undoes what it did when it fails. Where no limit of processes is asked for, `default_pids` holds if that costs nothing.
    ///
    /// # Errors
    /// Of the journal and of the kernel.
    pub(crate) fn make(name: &str, limits: &Limits, default_pids: Option<u64>, journal: &Arc<dyn Journal>) -> Result<Made> {
        let mut made = Made { groups: Self::default(), unified: None, threads: Vec::new() };
        match made.fill(Hierarchies::of_host(), name, limits, default_pids, journal) {
            Ok(()) => Ok(made),
            Err(error) => {
                // The first failure is the one to tell. What cannot be removed stays in the ledger.
                let _ = made.groups.release(journal);
                Err(error)
            }
        }
    }

    /// Removes them; nothing runs in them any more.
    ///
    /// # Errors
    /// Of the journal and of the kernel, the first; the others are removed all the same.
    pub(crate) fn release(&self, journal: &Arc<dyn Journal>) -> Result<()> {
        let mut result = Ok(());
        for path in self.paths() {
            let removed = remove(path)
                .context(OPERATION, || format!("cannot remove the control group {}", path.display()))
                .and_then(|()| journal.forget(&Resource::Cgroup { path: path.to_owned() }));
            result = result.and(removed);
        }
        result
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.unified.iter().chain(self.v1.iter().map(|(_, path)| path)).map(PathBuf::as_path)
    }

    /// The v1 group with this controller.
    pub(super) fn v1(&self, controller: Controller) -> Option<&Path> {
        self.v1.iter().find(|(found, _)| *found == controller).map(|(_, path)| path.as_path())
    }

    /// Whether what is in them can be frozen.
    pub(crate) fn can_freeze(&self) -> bool {
        self.unified.is_some() || self.v1(Controller::Freezer).is_some()
    }

    /// Bytes of memory in use.
    pub(crate) fn memory(&self) -> Option<u64> {
        self.number("memory.current", Controller::Memory, "memory.usage_in_bytes")
    }

    /// Processes and threads.
    pub(crate) fn pids(&self) -> Option<u64> {
        self.number("pids.current", Controller::Pids, "pids.current")
    }

    /// Microseconds of CPU time. Every v2 group counts them, whatever its controllers.
    pub(crate) fn cpu_micros(&self) -> Option<u64> {
        field(self.unified.as_ref()?, "cpu.stat", "usage_usec")
    }

    /// Whether the kernel has ended processes in it for want of memory.
    pub(crate) fn ran_out_of_memory(&self) -> bool {
        let unified = self.unified.as_ref().and_then(|group| field(group, "memory.events", "oom_kill"));
        let v1 = || {
            // A group counts what was ended in itself, not what was below.
            let group = self.v1(Controller::Memory)?;
            let counts = [group.to_owned(), group.join(INSIDE)].map(|group| field(&group, "memory.oom_control", "oom_kill"));
            counts.into_iter().flatten().max()
        };
        unified.or_else(v1).is_some_and(|count| count > 0)
    }

    fn number(&self, unified: &str, controller: Controller, v1: &str) -> Option<u64> {
        let read = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse().ok();
        let from_unified = self.unified.as_ref().and_then(|group| read(group.join(unified)));
        from_unified.or_else(|| read(self.v1(controller)?.join(v1)))
    }
}

impl Made {
    fn fill(
        &mut self,
        host: &Hierarchies,
        name: &str,
        limits: &Limits,
        default_pids: Option<u64>,
        journal: &Arc<dyn Journal>,
    ) -> Result<()> {
        self.groups.unified = host.unified().map(|base| base.join(name));
        let freezer = host.unified().is_none().then_some(Controller::Freezer);
        let limiting = wanted(limits).map(|(controller, _)| controller).filter(|controller| !host.unified_has(*controller));
        let v1 = freezer.into_iter().chain(limiting).filter_map(|controller| Some((controller, host.v1(controller)?.join(name))));
        self.groups.v1 = v1.collect();
        let resources: Vec<Resource> = self.groups.paths().map(|path| Resource::Cgroup { path: path.to_owned() }).collect();
        journal.intend_all(&resources)?;
        if let Some(group) = &self.groups.unified {
            make_folder(group)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            self.unified = Some(
                openat(CWD, group, flags, Mode::empty())
                    .map_err(io::Error::from)
                    .context(OPERATION, || format!("cannot open {}", group.display()))?,
            );
        }
        for (_, group) in &self.groups.v1 {
            make_folder(group)?;
            let threads = openat(CWD, group.join("tasks"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
            self.threads.push(threads.map_err(io::Error::from).context(OPERATION, || format!("cannot open {}", group.display()))?);
        }
        for (controller, value) in wanted(limits) {
            if host.unified_has(controller) {
                let group = self.groups.unified.clone().unwrap_or_default();
                if !group.join(limit_file(controller)).exists() {
                    host.enable(controller).context(OPERATION, || format!("cannot enable the controller {}", controller.name()))?;
                }
                set_unified(&group, controller, value).context(OPERATION, || format!("cannot set the limit in {}", group.display()))?;
            } else if let Some(group) = self.groups.v1(controller) {
                set_v1(group, controller, value).context(OPERATION, || format!("cannot set the limit in {}", group.display()))?;
            }
        }
        if limits.pids.is_none()
            && let Some(default_pids) = default_pids
            && let Some(group) = &self.groups.unified
        {
            // Only where it costs nothing: when the group has the controller already.
            let _ = write_existing(&group.join(limit_file(Controller::Pids)), default_pids + AGENT_PROCESSES);
        }
        Ok(())
    }
}

fn wanted(limits: &Limits) -> impl Iterator<Item = (Controller, u64)> {
    [
        (Controller::Memory, limits.memory),
        (Controller::Cpu, limits.cpu_millis.map(u64::from)),
        (Controller::Pids, limits.pids.map(|pids| u64::from(pids) + AGENT_PROCESSES)),
    ]
    .into_iter()
    .filter_map(|(controller, value)| Some((controller, value?)))
}

fn make_folder(group: &Path) -> Result<()> {
    match fs::create_dir(group) {
        // Left by a crash in the middle of the same boot: nothing runs in it, or it could not be removed and made anew.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove(group).and_then(|()| fs::create_dir(group)),
        result => result,
    }
    .context(OPERATION, || format!("cannot make the control group {}", group.display()))
}

/// The file whose presence says that a v2 group has the controller.
const fn limit_file(controller: Controller) -> &'static str {
    match controller {
        Controller::Memory => "memory.max",
        Controller::Cpu => "cpu.max",
        Controller::Pids => "pids.max",
        Controller::Freezer => "cgroup.freeze",
    }
}

fn set_unified(group: &Path, controller: Controller, value: u64) -> io::Result<()> {
    let file = group.join(limit_file(controller));
    match controller {
        Controller::Memory => limit_memory_unified(group, value),
        Controller::Cpu => write_existing(&file, format!("{} {CPU_PERIOD}", value * CPU_PERIOD / 1000)),
        Controller::Pids => write_existing(&file, value),
        Controller::Freezer => Ok(()),
    }
}

fn set_v1(group: &Path, controller: Controller, value: u64) -> io::Result<()> {
    match controller {
        Controller::Memory => limit_memory_v1(group, value),
        Controller::Cpu => {
            write_existing(&group.join("cpu.cfs_period_us"), CPU_PERIOD)?;
            write_existing(&group.join("cpu.cfs_quota_us"), value * CPU_PERIOD / 1000)
        }
        Controller::Pids => write_existing(&group.join("pids.max"), value),
        Controller::Freezer => Ok(()),
    }
}

pub(super) fn limit_memory_unified(group: &Path, bytes: u64) -> io::Result<()> {
    write_existing(&group.join("memory.max"), bytes)?;
    // Without swap accounting there is no such file, and what is swapped out is not counted.
    missing_is_fine(write_existing(&group.join("memory.swap.max"), 0))
}

pub(super) fn limit_memory_v1(group: &Path, bytes: u64) -> io::Result<()> {
    write_existing(&group.join("memory.limit_in_bytes"), bytes)?;
    // Memory and swap together: as much as memory alone is no swap.
    missing_is_fine(write_existing(&group.join("memory.memsw.limit_in_bytes"), bytes))
}

/// Like `fs::write`, but never makes a file (an attempt at that is told as a lack of permission).
pub(super) fn write_existing(file: &Path, value: impl ToString) -> io::Result<()> {
    use io::Write;
    fs::OpenOptions::new().write(true).open(file)?.write_all(value.to_string().as_bytes())
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// The number after a name, in a file of `NAME NUMBER` lines.
pub(super) fn field(group: &Path, file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(group.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("memory.events"), "oom 3\noom_kill 7\noom_kill_x 9\n").unwrap();
        assert_eq!(field(folder.path(), "memory.events", "oom_kill"), Some(7));
        assert_eq!(field(folder.path(), "memory.events", "kill"), None);
        assert_eq!(field(folder.path(), "absent", "oom"), None);
    }

    #[test]
    fn limits_are_written_in_each_versions_own_units() {
        let folder = tempfile::tempdir().unwrap();
        let (group, read) = (folder.path(), |name: &str| fs::read_to_string(folder.path().join(name)).unwrap());
        for file in
            ["memory.max", "memory.swap.max", "cpu.max", "pids.max", "memory.limit_in_bytes", "cpu.cfs_period_us", "cpu.cfs_quota_us"]
        {
            fs::write(group.join(file), "").unwrap();
        }
        set_unified(group, Controller::Memory, 64 << 20).unwrap();
        set_unified(group, Controller::Cpu, 1500).unwrap();
        set_unified(group, Controller::Pids, 20).unwrap();
        assert_eq!(
            [read("memory.max"), read("memory.swap.max"), read("cpu.max"), read("pids.max")],
            ["67108864", "0", "150000 100000", "20"]
        );
        set_v1(group, Controller::Memory, 64 << 20).unwrap();
        set_v1(group, Controller::Cpu, 10).unwrap();
        assert_eq!([read("memory.limit_in_bytes"), read("cpu.cfs_period_us"), read("cpu.cfs_quota_us")], ["67108864", "100000", "1000"]);
        assert!(!group.join("memory.memsw.limit_in_bytes").exists());
    }

    #[test]
    fn a_limit_that_is_not_there_is_no_file_made() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write_existing(&folder.path().join("pids.max"), 1).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
