use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::fs::{Access, AtFlags, CWD, accessat, statfs};
use serde::{Deserialize, Serialize};

/// Where every distribution mounts its hierarchies.
const MOUNT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC`.
const V2_MAGIC: i64 = 0x6367_7270;
/// `CGROUP_SUPER_MAGIC`.
const V1_MAGIC: i64 = 0x0027_e0eb;

/// What a limit, or freezing on v1, needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Controller {
    /// Memory.
    Memory,
    /// CPU time.
    Cpu,
    /// Processes and threads.
    Pids,
    /// Freezing, on v1. On v2 every group can be frozen.
    Freezer,
}

impl Controller {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
            Self::Freezer => "freezer",
        }
    }
}

/// Where this process may make groups. Found once.
#[derive(Debug, Default)]
pub(crate) struct Hierarchies {
    v2: Option<Unified>,
    v1: Vec<(Controller, PathBuf)>,
}

/// A folder of the v2 hierarchy that may have groups of ours.
#[derive(Debug)]
struct Unified {
    base: PathBuf,
    mount: PathBuf,
    /// Controllers that are there and are, or can be, passed on to groups below.
    controllers: Vec<Controller>,
}

impl Hierarchies {
    /// Those of this host.
    pub(crate) fn of_host() -> &'static Self {
        static FOUND: OnceLock<Hierarchies> = OnceLock::new();
        FOUND.get_or_init(|| fs::read_to_string("/proc/self/cgroup").map(|own| Self::find(Path::new(MOUNT), &own)).unwrap_or_default())
    }

    fn find(mount: &Path, own: &str) -> Self {
        let v2 = [mount.to_owned(), mount.join("unified")].into_iter().find(|folder| is_of(folder, V2_MAGIC)).and_then(|mount| {
            let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
            Unified::find(mount, path)
        });
        let v1 = [Controller::Memory, Controller::Cpu, Controller::Pids, Controller::Freezer].into_iter().filter_map(|controller| {
            let (names, path) = own.lines().find_map(|line| {
                let (names, path) = line.split_once(':')?.1.split_once(':')?;
                names.split(',').any(|name| name == controller.name()).then_some((names, path))
            })?;
            let hierarchy = [controller.name(), names].map(|name| mount.join(name)).into_iter().find(|folder| is_of(folder, V1_MAGIC))?;
            // In a container the path may be the host's: then ours is the top of what is mounted.
            let own = hierarchy.join(path.trim_start_matches('/'));
            let base = if own.is_dir() { own } else { hierarchy };
            may_write(&base).then_some((controller, base))
        });
        Self { v1: v1.collect(), v2 }
    }

    /// The folder for a v2 group.
    pub(super) fn unified(&self) -> Option<&Path> {
        self.v2.as_ref().map(|unified| unified.base.as_path())
    }

    /// The folder for a v1 group with this controller.
    pub(super) fn v1(&self, controller: Controller) -> Option<&Path> {
        self.v1.iter().find(|(found, _)| *found == controller).map(|(_, base)| base.as_path())
    }

    /// Whether v2 has this controller.
    pub(super) fn unified_has(&self, controller: Controller) -> bool {
        self.v2.as_ref().is_some_and(|unified| unified.controllers.contains(&controller))
    }

    /// How a limit of this kind would be held.
    pub(crate) fn holder(&self, controller: Controller) -> Option<&'static str> {
        if self.unified_has(controller) { Some("cgroup v2") } else { self.v1(controller).map(|_| "cgroup v1") }
    }

    /// Whether sandboxes can be frozen.
    pub(crate) fn can_freeze(&self) -> bool {
        self.v2.is_some() || self.v1(Controller::Freezer).is_some()
    }

    /// Makes sure that groups below the v2 base have this controller.
    ///
    /// # Errors
    /// Of the kernel.
    pub(super) fn enable(&self, controller: Controller) -> io::Result<()> {
        let Some(unified) = &self.v2 else { return Ok(()) };
        let below_mount = unified.base.strip_prefix(&unified.mount).unwrap_or(Path::new(""));
        // From the top: a group can pass on only what it was given.
        let mut folders: Vec<&Path> = below_mount.ancestors().collect();
        folders.reverse();
        for folder in folders {
            let control = unified.mount.join(folder).join("cgroup.subtree_control");
            if !lists(&control, controller) {
                fs::write(&control, format!("+{}", controller.name()))?;
            }
        }
        Ok(())
    }

    /// In words, for the provider's notes.
    pub(crate) fn describe(&self) -> String {
        match (&self.v2, self.v1.is_empty()) {
            (Some(_), true) => "cgroup v2".to_owned(),
            (Some(_), false) => "cgroups v1 and v2".to_owned(),
            (None, false) => "cgroup v1".to_owned(),
            (None, true) => "no cgroups".to_owned(),
        }
    }
}

impl Unified {
    fn find(mount: PathBuf, own_path: &str) -> Option<Self> {
        let own = mount.join(own_path.trim_start_matches('/'));
        let own = if own.is_dir() { own } else { mount.clone() };
        // A group with processes may not pass controllers on, unless it is the root: so our groups lie beside our own, not below it.
        let beside = (own != mount).then(|| own.parent().map(Path::to_owned)).flatten();
        let base = beside.into_iter().chain([own]).find(|folder| may_write(folder) && may_write(&folder.join("cgroup.procs")))?;
        let is_root = !base.join("cgroup.events").exists();
        let is_free = is_root || fs::read(base.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty());
        let (offered, passed_on) = (base.join("cgroup.controllers"), base.join("cgroup.subtree_control"));
        let usable =
            |controller: &Controller| lists(&passed_on, *controller) || (is_free && may_write(&passed_on) && lists(&offered, *controller));
        let controllers = [Controller::Memory, Controller::Cpu, Controller::Pids].into_iter().filter(usable).collect();
        Some(Self { base, mount, controllers })
    }
}

fn is_of(folder: &Path, magic: i64) -> bool {
    statfs(folder).is_ok_and(|found| found.f_type == magic)
}

fn may_write(path: &Path) -> bool {
    accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok()
}

fn lists(file: &Path, controller: Controller) -> bool {
    fs::read_to_string(file).is_ok_and(|line| line.split_ascii_whitespace().any(|name| name == controller.name()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_hierarchies_has_none() {
        let empty = tempfile::tempdir().unwrap();
        let found = Hierarchies::find(empty.path(), "4:memory:/a\n0::/b\nnonsense");
        assert!(found.unified().is_none() && found.holder(Controller::Memory).is_none() && !found.can_freeze());
        assert_eq!(found.describe(), "no cgroups");
    }

    #[test]
    fn what_is_claimed_of_this_host_exists() {
        let found = Hierarchies::of_host();
        for controller in [Controller::Memory, Controller::Cpu, Controller::Pids] {
            if found.holder(controller) == Some("cgroup v1") {
                assert!(found.v1(controller).is_some_and(|base| base.join("cgroup.procs").exists()));
            }
        }
    }
}
