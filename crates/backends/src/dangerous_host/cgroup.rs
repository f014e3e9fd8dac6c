use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FsWord, Mode, OFlags, openat, statfs},
    io::Errno,
};
use sandbar_core::{Context, Error, ErrorKind, Result};

/// Where the version 2 hierarchy is mounted: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// The group that holds this provider's groups. Removed with the last of them.
const PARENT: &str = "sandbar-dangerous-host";
/// `CGROUP2_SUPER_MAGIC` of `linux/magic.h`.
const CGROUP2: FsWord = 0x6367_7270;
/// How long the kernel may take to freeze or to end the processes of a group.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a parent that others remove is made again. Each time somebody else has ended a sandbox in that very moment.
const PARENT_TRIES: u32 = 1000;
/// Probes of this process.
static PROBES: AtomicU32 = AtomicU32::new(0);
/// Between two looks, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_micros(100);
const LAST_PAUSE: Duration = Duration::from_millis(20);

/// A control group (version 2, no controllers needed) that holds every process of one sandbox, so that all of them can be frozen and
/// ended together whatever they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    /// The folder in which groups can be made here, from trying; `None` where they cannot.
    pub(super) fn parent() -> Option<PathBuf> {
        let mount = MOUNTS.iter().map(Path::new).find(|mount| statfs(*mount).is_ok_and(|found| found.f_type == CGROUP2))?;
        // Root: at the top, beside the session that started us, so that the end of that session is not ours. Else: below our own group, if it was
        // delegated to us.
        let own = fs::read_to_string("/proc/self/cgroup").ok()?.lines().find_map(|line| line.strip_prefix("0::/").map(str::to_owned))?;
        let candidates = [mount.join(PARENT), mount.join(own).join(PARENT)];
        candidates.into_iter().find(|folder| can_hold_groups(folder))
    }

    /// The group of this name; makes nothing.
    pub(super) fn named(parent: &Path, name: &str) -> Self {
        Self(parent.join(name))
    }

    /// The group that has this path.
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Makes it, empty, and opens it for a process to be started in.
    pub(super) fn make(&self) -> Result<OwnedFd> {
        // One of this name is from a boot that nobody finished.
        self.end()?;
        let made = make_with_parent(&self.0);
        made.context("cgroup", || format!("cannot make {}", self.0.display()))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, &self.0, flags, Mode::empty())
            .map_err(io::Error::from)
            .context("cgroup", || format!("cannot open {}", self.0.display()))
    }

    /// Whether everything in it is frozen; `None` when it is gone.
    pub(super) fn is_frozen(&self) -> Option<bool> {
        event(&fs::read_to_string(self.0.join("cgroup.events")).ok()?, "frozen")
    }

    /// Freezes or thaws, and waits until that is so. Blocks.
    pub(super) fn set_frozen(&self, frozen: bool) -> Result<()> {
        let file = self.0.join("cgroup.freeze");
        fs::write(&file, if frozen { "1" } else { "0" }).context("cgroup", || format!("cannot write {}", file.display()))?;
        if self.wait_until(frozen) {
            return Ok(());
        }
        let message = if frozen { "a process cannot be frozen: it waits for a device" } else { "a process cannot be thawed" };
        Err(Error::new(ErrorKind::TimedOut, "cgroup", message).with("path", self.0.display()))
    }

    /// Ends every process in it at once and removes it. One that is gone is no error. Blocks.
    pub(super) fn end(&self) -> Result<()> {
        match fs::write(self.0.join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.0.exists() => return Ok(()),
            // Since Linux 5.14. Before, the processes are frozen first, so that none can start another while they are ended one by one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.kill_each()?,
            written => written.context("cgroup", || format!("cannot end the processes in {}", self.0.display()))?,
        }
        // The group can be removed as soon as the last process has left; the kernel's notice of that may come 15 ms later, since it
        // sends no more than one in 10 ms (`CGROUP_FILE_NOTIFY_MIN_INTV`).
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    if Instant::now() > deadline {
                        let message = "a process does not end";
                        return Err(Error::new(ErrorKind::TimedOut, "cgroup", message).with("path", self.0.display()));
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LAST_PAUSE);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io("cgroup", "cannot remove the group", error).with("path", self.0.display()));
                }
                _ => break,
            }
        }
        // Only succeeds for the last one.
        let _ = self.0.parent().map(fs::remove_dir);
        Ok(())
    }

    /// Processes and threads in it now.
    pub(super) fn tasks(&self) -> Option<u64> {
        Some(fs::read_to_string(self.0.join("cgroup.threads")).ok()?.lines().count() as u64)
    }

    /// CPU time of everything that ever ran in it, microseconds.
    pub(super) fn cpu_micros(&self) -> Option<u64> {
        event_number(&fs::read_to_string(self.0.join("cpu.stat")).ok()?, "usage_usec")
    }

    fn kill_each(&self) -> Result<()> {
        self.set_frozen(true)?;
        let list = fs::read_to_string(self.0.join("cgroup.procs")).context("cgroup", || "cannot read the group's processes".to_owned())?;
        for pid in list.lines().filter_map(|line| line.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
            // Frozen processes cannot exit, so the numbers are still theirs.
            match rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
                Err(error) if error != Errno::SRCH => return Err(Error::io("cgroup", "cannot end a process", error.into())),
                _ => {}
            }
        }
        self.set_frozen(false)
    }

    /// Waits until everything is frozen, or nothing. A group that is gone is both.
    fn wait_until(&self, frozen: bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        while self.is_frozen().is_some_and(|is| is != frozen) {
            if Instant::now() > deadline {
                return false;
            }
            // As in `end`: asking again is faster than the kernel's notice.
            std::thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE);
        }
        true
    }
}

/// Makes a group, and its parent where there is none. Other processes remove the parent with the last of their groups, and make it again, whenever they like.
fn make_with_parent(group: &Path) -> io::Result<()> {
    for _ in 0..PARENT_TRIES {
        match fs::create_dir(group) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            made => return made,
        }
        match group.parent().map_or(Ok(()), fs::create_dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    fs::create_dir(group)
}

/// Whether groups can be made in `folder`, from trying.
fn can_hold_groups(folder: &Path) -> bool {
    let probe = folder.join(format!("probe-{}-{}", std::process::id(), PROBES.fetch_add(1, Ordering::Relaxed)));
    let usable = make_with_parent(&probe).is_ok() && probe.join("cgroup.freeze").exists();
    let _ = fs::remove_dir(&probe);
    // Only succeeds where no group is in it.
    let _ = fs::remove_dir(folder);
    usable
}

fn event(text: &str, flag: &str) -> Option<bool> {
    event_number(text, flag).map(|value| value != 0)
}

fn event_number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_made_while_the_last_of_others_goes_with_their_parent() {
        let Some(parent) = Cgroup::parent() else { return };
        let parent = parent.with_extension(format!("test-{}", std::process::id()));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let parent = &parent;
                scope.spawn(move || {
                    for _ in 0..500 {
                        assert!(can_hold_groups(parent));
                        let group = Cgroup::named(parent, &format!("group-{thread}"));
                        group.make().unwrap();
                        group.end().unwrap();
                    }
                });
            }
        });
        assert!(!parent.exists(), "{} is left", parent.display());
    }
}
