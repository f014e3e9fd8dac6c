//! The jailer: a root of its own for each Firecracker, a user of its own, and a control group.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sandbar_core::{Context, Error, IdRange, Result};
use serde::{Deserialize, Serialize};

const OPERATION: &str = "jail";
/// Below a generation's folder.
const BASE: &str = "jail";
/// The group of all of them.
const PARENT: &str = "sandbar-firecracker";
/// Threads of one Firecracker: one for each processor, the interface, the monitor, and what it may start for an instant.
const THREADS: u32 = 128;
/// Open files of one Firecracker: its disks, and each connection to the agent.
const OPEN_FILES: u32 = 8192;
const PATIENCE: Duration = Duration::from_secs(5);

/// One machine's jail.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Jail {
    /// The name that the jailer gives to folder and group.
    pub(super) id: String,
    /// The user and group that Firecracker runs as.
    pub(super) user: u32,
    base: PathBuf,
    /// Its control groups: one where the host has version 2, else one for each controller.
    pub(super) groups: Vec<PathBuf>,
    version: u32,
}

impl Jail {
    /// The jail of one generation. Touches nothing.
    pub(super) fn new(id: &str, generation: u32, folder: &Path, ids: IdRange) -> Self {
        let id = format!("{id}-g{generation}");
        let (version, roots) = hierarchy();
        let groups = roots.into_iter().map(|root| root.join(PARENT).join(&id)).collect();
        Self { id, user: ids.first, base: folder.join(BASE), groups, version }
    }

    /// What becomes the root of Firecracker, given its program.
    pub(super) fn root(&self, program: &Path) -> PathBuf {
        let name = program.file_name().unwrap_or_default();
        self.base.join(name).join(&self.id).join("root")
    }

    /// Makes the folder that the jailer fills.
    pub(super) fn make(&self, program: &Path) -> Result<PathBuf> {
        remove_folder(&self.base)?;
        let root = self.root(program);
        fs::create_dir_all(&root).context(OPERATION, || format!("cannot make {}", root.display()))?;
        Ok(root)
    }

    /// Lets Firecracker's user change a file.
    pub(super) fn own(&self, path: &Path) -> Result<()> {
        chown(path, Some(self.user), Some(self.user)).context(OPERATION, || format!("cannot give {} to the jail's user", path.display()))
    }

    /// The jailer's arguments; Firecracker's follow.
    pub(super) fn arguments(&self, program: &Path) -> Vec<OsString> {
        let user = self.user.to_string();
        let mut arguments: Vec<OsString> = vec!["--id".into(), self.id.clone().into(), "--exec-file".into(), program.into()];
        arguments.extend(["--uid".into(), user.clone().into(), "--gid".into(), user.into()]);
        arguments.extend(["--chroot-base-dir".into(), self.base.clone().into_os_string()]);
        arguments.extend(["--resource-limit".into(), format!("no-file={OPEN_FILES}").into()]);
        if !self.groups.is_empty() {
            arguments.extend(["--cgroup-version".into(), self.version.to_string().into(), "--parent-cgroup".into(), PARENT.into()]);
            arguments.extend(["--cgroup".into(), format!("pids.max={THREADS}").into()]);
        }
        arguments.push("--".into());
        arguments
    }

    /// Removes what the jailer made: its processes are gone.
    pub(super) fn remove(&self) -> Result<()> {
        self.groups.iter().try_for_each(|group| remove_group(group))?;
        remove_folder(&self.base)
    }
}

/// Version and mounts of the hierarchies that have the controller `pids`.
fn hierarchy() -> (u32, Vec<PathBuf>) {
    let root = Path::new("/sys/fs/cgroup");
    if fs::read_to_string(root.join("cgroup.controllers"))
        .is_ok_and(|controllers| controllers.split_whitespace().any(|name| name == "pids"))
    {
        return (2, vec![root.to_owned()]);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let found = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|mount| {
        mount.get(2) == Some(&"cgroup") && mount.get(3).is_some_and(|options| options.split(',').any(|option| option == "pids"))
    });
    (1, found.and_then(|mount| mount.get(1).map(PathBuf::from)).into_iter().collect())
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

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(OPERATION, || format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
