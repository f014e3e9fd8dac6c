//! The jailer: a root of its own for each Firecracker, a user of its own, and a control group.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sandbar_core::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::vmm::Shape;

const OPERATION: &str = "jail";
/// Below a generation's folder.
pub(super) const BASE: &str = "jail";
/// The group of all of them. It stays, since somebody else may be about to make a group in it.
const PARENT: &str = "sandbar-firecracker";
/// Where a hierarchy of version 2 is mounted.
const HIERARCHY: &str = "/sys/fs/cgroup";
/// Of a share of the processors, in microseconds: the kernel's own.
const PERIOD: u64 = 100_000;
/// Threads of one Firecracker: one for each processor, the interface, the monitor, and what it may start for an instant.
const THREADS: u32 = 128;
/// Open files of one Firecracker: its disks, and each connection to the agent.
const OPEN_FILES: u32 = 8192;
/// What a file may be larger than memory or disk.
const MARGIN: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(5);

/// One machine's jail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Jail {
    /// What the jailer calls folder and group.
    name: String,
    /// The user and group that Firecracker runs as.
    user: u32,
    base: PathBuf,
    /// Its control groups: one where the host has version 2, else one in the hierarchy that counts processes.
    pub(super) groups: Vec<PathBuf>,
    version: u32,
}

impl Jail {
    /// The jail of one generation, with a control group of its own or without. Touches nothing.
    pub(super) fn new(name: &str, user: u32, generation: &Path, has_group: bool) -> Self {
        let (version, roots) = if has_group { hierarchy() } else { (2, None) };
        let groups = roots.into_iter().map(|root| root.join(PARENT).join(name)).collect();
        Self { name: name.to_owned(), user, base: generation.join(BASE), groups, version }
    }

    /// What becomes the root of Firecracker, given its program.
    pub(super) fn root(&self, program: &Path) -> PathBuf {
        self.base.join(program.file_name().unwrap_or_default()).join(&self.name).join("root")
    }

    /// The jailer's arguments; Firecracker's follow.
    pub(super) fn arguments(&self, program: &Path, shape: Shape) -> Vec<OsString> {
        let user = self.user.to_string();
        // What it writes is memory, disk, and a little.
        let largest = shape.memory.max(shape.disk).saturating_add(MARGIN);
        let mut arguments: Vec<OsString> = vec!["--id".into(), self.name.clone().into(), "--exec-file".into(), program.into()];
        arguments.extend(["--uid".into(), user.clone().into(), "--gid".into(), user.into()]);
        arguments.extend(["--chroot-base-dir".into(), self.base.clone().into_os_string()]);
        for limit in [format!("no-file={OPEN_FILES}"), format!("fsize={largest}")] {
            arguments.extend(["--resource-limit".into(), limit.into()]);
        }
        if !self.groups.is_empty() {
            arguments.extend(["--cgroup-version".into(), self.version.to_string().into(), "--parent-cgroup".into(), PARENT.into()]);
            arguments.extend(["--cgroup".into(), format!("pids.max={THREADS}").into()]);
            if self.version == 2 && shares_processors() {
                // A processor for the monitor's own work, beside those of the machine.
                let processors = u64::from(shape.processors) + 1;
                arguments.extend(["--cgroup".into(), format!("cpu.max={} {PERIOD}", processors * PERIOD).into()]);
            }
        }
        arguments.push("--".into());
        arguments
    }
}

/// Whether the groups of a hierarchy of version 2 can have shares of the processors. A kernel may refuse that while it runs processes in real time.
fn shares_processors() -> bool {
    let control = Path::new(HIERARCHY).join("cgroup.subtree_control");
    let _ = fs::write(&control, "+cpu");
    fs::read_to_string(control).is_ok_and(|controllers| controllers.split_whitespace().any(|name| name == "cpu"))
}

/// Version and mount of the hierarchy that has the controller `pids`.
fn hierarchy() -> (u32, Option<PathBuf>) {
    let root = Path::new(HIERARCHY);
    if fs::read_to_string(root.join("cgroup.controllers"))
        .is_ok_and(|controllers| controllers.split_whitespace().any(|name| name == "pids"))
    {
        return (2, Some(root.to_owned()));
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let found = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|mount| {
        mount.get(2) == Some(&"cgroup") && mount.get(3).is_some_and(|options| options.split(',').any(|option| option == "pids"))
    });
    (1, found.and_then(|mount| mount.get(1).map(PathBuf::from)))
}

/// Ends what is in a group, and removes it.
pub(super) fn remove_group(group: &Path) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // What was killed leaves a moment later.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => kill_members(group),
            Err(error) => return Err(Error::io(OPERATION, "cannot remove a control group", error).with("path", group.display())),
        }
    }
}

fn kill_members(group: &Path) {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for process in members.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(process, rustix::process::Signal::KILL);
    }
    std::thread::sleep(Duration::from_millis(2));
}
