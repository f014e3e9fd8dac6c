use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::machine::process::wait_for_exit;

use super::freezer::wait_for;

/// How long the last processes of a group may take to end once they are killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Removes a group whose processes have ended, or are about to, with the groups below. One that is gone already is no error.
///
/// # Errors
/// `ResourceBusy` when something still runs in it, or of the kernel.
pub(crate) fn remove(group: &Path) -> io::Result<()> {
    for below in groups_below(group)? {
        remove(&below)?;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match rustix::fs::rmdir(group) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::BUSY) if Instant::now() < deadline => {
                if group.join("cgroup.events").exists() {
                    match wait_for(group, "populated", 0, deadline.saturating_duration_since(Instant::now())) {
                        // Somebody else is about to remove it; when that is over, it is not found.
                        Err(error) if is_gone(&error) => {}
                        waited => waited?,
                    }
                } else {
                    wait_for_processes(group, deadline)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Ends whatever runs in a group, frozen or not, and removes it.
///
/// # Errors
/// As [`remove`].
pub(crate) fn empty_and_remove(group: &Path) -> io::Result<()> {
    if !group.exists() {
        return Ok(());
    }
    if fs::write(group.join("cgroup.kill"), "1").is_err() {
        for below in groups_below(group)? {
            empty_and_remove(&below)?;
        }
        // Before Linux 5.14, and on v1, one by one, until nobody new has come.
        let _ = fs::write(group.join("freezer.state"), "THAWED");
        let deadline = Instant::now() + PATIENCE;
        while kill_all(group)? && Instant::now() < deadline {
            wait_for_processes(group, deadline)?;
        }
    }
    remove(group)
}

fn processes(group: &Path) -> io::Result<Vec<Pid>> {
    match fs::read_to_string(group.join("cgroup.procs")) {
        Ok(text) => Ok(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()),
        // Somebody else removed it, before or after it was opened.
        Err(error) if is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn groups_below(group: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(group) {
        Err(error) if is_gone(&error) => return Ok(Vec::new()),
        entries => entries?,
    };
    let folders = entries.filter_map(|entry| entry.ok().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())));
    Ok(folders.map(|entry| entry.path()).collect())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn kill_all(group: &Path) -> io::Result<bool> {
    let found = processes(group)?;
    for pid in &found {
        if let Ok(held) = pidfd_open(*pid, PidfdFlags::empty())
            // Held: now it is known to be in the group still, so the id was not another's.
            && processes(group)?.contains(pid)
        {
            let _ = pidfd_send_signal(held, Signal::KILL);
        }
    }
    Ok(!found.is_empty())
}

fn wait_for_processes(group: &Path, deadline: Instant) -> io::Result<()> {
    let found = processes(group)?;
    for pid in &found {
        if let Ok(held) = pidfd_open(*pid, PidfdFlags::empty()) {
            wait_for_exit(&held, deadline.saturating_duration_since(Instant::now()))?;
        }
    }
    if found.is_empty() {
        // Between the last exit and the release of the group there is nothing to wait for.
        std::thread::yield_now();
    }
    Ok(())
}
