use std::{
    fs::{self, File},
    io::{self, Read, Seek},
    path::Path,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Controller, Groups, groups::field};

/// How long freezing is waited for: a process in the middle of a slow disk operation finishes it first.
const PATIENCE: Duration = Duration::from_secs(10);

/// Freezes everything in the sandbox's groups; returns when it is frozen. Thaws again if it does not come to that.
///
/// # Errors
/// `TimedOut`, `Unsupported` without a group that can freeze, or of the kernel.
pub(crate) fn freeze(groups: &Groups) -> io::Result<()> {
    let result = match (&groups.unified, groups.v1(Controller::Freezer)) {
        (Some(group), _) => {
            fs::write(group.join("cgroup.freeze"), "1")?;
            wait_for(group, "frozen", 1, PATIENCE)
        }
        (None, Some(group)) => freeze_v1(group),
        (None, None) => return Err(io::ErrorKind::Unsupported.into()),
    };
    if result.is_err() {
        // The failure to freeze is the one to tell.
        let _ = thaw(groups);
    }
    result
}

/// Lets it run again.
///
/// # Errors
/// Of the kernel.
pub(crate) fn thaw(groups: &Groups) -> io::Result<()> {
    match (&groups.unified, groups.v1(Controller::Freezer)) {
        (Some(group), _) => fs::write(group.join("cgroup.freeze"), "0"),
        (None, Some(group)) => fs::write(group.join("freezer.state"), "THAWED"),
        (None, None) => Ok(()),
    }
}

/// Whether it is frozen, or about to be.
pub(crate) fn is_frozen(groups: &Groups) -> bool {
    match (&groups.unified, groups.v1(Controller::Freezer)) {
        (Some(group), _) => field(group, "cgroup.events", "frozen") == Some(1),
        (None, Some(group)) => fs::read(group.join("freezer.state")).is_ok_and(|state| !state.starts_with(b"THAWED")),
        (None, None) => false,
    }
}

/// Waits until a field of a v2 group's `cgroup.events` has a value. The kernel tells of each change.
///
/// # Errors
/// `TimedOut`, or of the kernel.
pub(super) fn wait_for(group: &Path, name: &str, value: u64, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let mut events = File::open(group.join("cgroup.events"))?;
    loop {
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if text.lines().any(|line| line.split_once(' ').is_some_and(|(found, number)| found == name && number.parse() == Ok(value))) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{name} does not become {value}")));
        }
        let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout))?;
    }
}

/// v1 tells nothing: the state is asked for, and each question also moves the freezing on.
fn freeze_v1(group: &Path) -> io::Result<()> {
    let state = group.join("freezer.state");
    let deadline = Instant::now() + PATIENCE;
    fs::write(&state, "FROZEN")?;
    while !fs::read(&state)?.starts_with(b"FROZEN") {
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the sandbox does not freeze"));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
