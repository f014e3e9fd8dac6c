use std::{fs, io, path::Path};

use super::{
    Controller, Groups,
    groups::{limit_memory_unified, limit_memory_v1, write_existing},
};

/// The group of what is confined, below the sandbox's own.
pub(super) const INSIDE: &str = "inside";
/// On v2, where a group that passes controllers on has no processes itself: the group of everything else.
const OUTSIDE: &str = "outside";
/// How often processes are moved until none is left: each time a process may have started another.
const ROUNDS: usize = 100;

impl Groups {
    /// Gives some of the sandbox's processes, and all that they start from now on, a group of their own with a limit of memory, below the one
    /// with the limit of everything. When they exceed it, the kernel looks for what to end among them alone, and the others have room left
    /// to notice. Without a group that limits memory nothing is done.
    ///
    /// # Errors
    /// Of the kernel. The groups are removed with the sandbox's.
    pub(crate) fn confine(&self, processes: &[u32], memory: u64) -> io::Result<()> {
        if let Some(group) = self.unified.as_deref().filter(|group| group.join("memory.max").exists()) {
            let (inside, outside) = (group.join(INSIDE), group.join(OUTSIDE));
            fs::create_dir(&inside)?;
            fs::create_dir(&outside)?;
            enter(&inside, processes)?;
            for _ in 0..ROUNDS {
                let left = members(group)?;
                if left.is_empty() {
                    break;
                }
                enter(&outside, &left)?;
            }
            write_existing(&group.join("cgroup.subtree_control"), "+memory")?;
            return limit_memory_unified(&inside, memory);
        }
        if let Some(group) = self.v1(Controller::Memory) {
            let inside = group.join(INSIDE);
            fs::create_dir(&inside)?;
            limit_memory_v1(&inside, memory)?;
            return enter(&inside, processes);
        }
        Ok(())
    }

    /// Bytes of memory that those who were confined do not use yet; nothing where nobody was.
    pub(crate) fn confined_room(&self) -> Option<u64> {
        let read = |group: &Path, file: &str| fs::read_to_string(group.join(INSIDE).join(file)).ok()?.trim().parse::<u64>().ok();
        let unified = || {
            let group = self.unified.as_deref()?;
            Some((read(group, "memory.max")?, read(group, "memory.current")?))
        };
        let v1 = || {
            let group = self.v1(Controller::Memory)?;
            Some((read(group, "memory.limit_in_bytes")?, read(group, "memory.usage_in_bytes")?))
        };
        let (limit, used) = unified().or_else(v1)?;
        Some(limit.saturating_sub(used))
    }
}

/// Moves processes. One that has ended meanwhile is no error.
fn enter(group: &Path, processes: &[u32]) -> io::Result<()> {
    for process in processes {
        match write_existing(&group.join("cgroup.procs"), process) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
            moved => moved?,
        }
    }
    Ok(())
}

fn members(group: &Path) -> io::Result<Vec<u32>> {
    Ok(fs::read_to_string(group.join("cgroup.procs"))?.lines().filter_map(|line| line.parse().ok()).collect())
}
