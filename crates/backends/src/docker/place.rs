//! Where one agent runs, and what this host knows of it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sandbar_core::{Isolation, LimitReport};
use serde::{Deserialize, Serialize};

use crate::machine::{Facts, process::HostProcess};

/// Where one agent runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    /// The engine's address: another process may have been told of another engine.
    pub(super) engine: String,
    /// The container's name.
    pub(super) name: String,
    /// Its first process, where that is a process of this host.
    pub(super) process: Option<HostProcess>,
    /// The generation's folder.
    pub(super) folder: PathBuf,
    /// What the runtime makes of it.
    pub(super) isolation: Isolation,
    /// As they were asked for.
    pub(super) limits: Vec<LimitReport>,
}

impl Place {
    /// What this host knows without asking the engine; `None` when only the engine knows.
    pub(super) fn seen(&self) -> Option<Facts> {
        let process = self.process?;
        if !process.is_alive() {
            return Some(Facts::Gone("the agent's process is gone".to_owned()));
        }
        // A kernel in user space is frozen by itself, which no control group shows.
        if self.isolation != Isolation::Namespaces {
            return None;
        }
        is_frozen(process.pid).map(|frozen| if frozen { Facts::Frozen } else { Facts::Alive })
    }
}

/// Whether a process is in a frozen control group; `None` when it is in none that can be frozen.
fn is_frozen(pid: u32) -> Option<bool> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let group = |name: &str| {
        groups
            .lines()
            .find_map(|line| line.split_once(':')?.1.split_once(':').filter(|(names, _)| names.split(',').any(|found| found == name)))
            .map(|(_, path)| path.trim_start_matches('/'))
    };
    let version_one =
        group("freezer").and_then(|path| fs::read_to_string(Path::new("/sys/fs/cgroup/freezer").join(path).join("freezer.state")).ok());
    let version_two = || {
        let path = group("")?;
        ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
            .iter()
            .find_map(|mount| fs::read_to_string(Path::new(mount).join(path).join("cgroup.events")).ok())
    };
    match version_one {
        Some(state) => Some(state.trim() != "THAWED"),
        None => version_two().map(|events| events.lines().any(|line| line == "frozen 1")),
    }
}

/// Whether a process of this host is the first one of this container: the engine's word alone may be about another host's processes.
pub(super) fn is_of_container(pid: u32, container: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(container))
}
