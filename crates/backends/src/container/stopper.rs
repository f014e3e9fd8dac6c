//! Stopping all processes of a sandbox by signals, where there is no group to freeze: for the moment of a checkpoint.
//!
//! It is not offered as a pause: a shell with job control inside sees that its jobs were stopped.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::machine::process::{HostProcess, ProcessStat};

/// How long a stop may take: a process in the middle of a slow disk operation finishes it first.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was stopped, by the sandbox's first process.
fn stopped() -> MutexGuard<'static, HashMap<HostProcess, Vec<HostProcess>>> {
    static STOPPED: OnceLock<Mutex<HashMap<HostProcess, Vec<HostProcess>>>> = OnceLock::new();
    STOPPED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops the first process and all its descendants: in a PID namespace there are no others. A stopped process makes no new ones, so looking
/// again until nobody new is found finds all.
///
/// # Errors
/// `TimedOut`, or of the kernel.
pub(super) fn stop(first: HostProcess) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let mut ours: HashSet<HostProcess> = HashSet::new();
    loop {
        let mut running = false;
        for (process, state) in family(first)? {
            if matches!(state, 'T' | 't' | 'Z' | 'X') || (state == 'D' && process.stop_is_pending()) {
                continue;
            }
            running = true;
            if ours.insert(process) {
                process.signal(Signal::STOP)?;
            }
        }
        if !running {
            stopped().entry(first).or_default().extend(ours);
            return Ok(());
        }
        if Instant::now() > deadline {
            ours.iter().try_for_each(|process| process.signal(Signal::CONT))?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the sandbox's processes do not stop"));
        }
        std::thread::yield_now();
    }
}

/// Lets those go on that were stopped here; if another process of sandbar stopped them, all.
///
/// # Errors
/// Of the kernel.
pub(super) fn go_on(first: HostProcess) -> io::Result<()> {
    let ours = stopped().remove(&first);
    let processes = match ours {
        Some(processes) => processes,
        None if ProcessStat::read(first.pid).is_ok_and(|stat| stat.state == 'T') => {
            family(first)?.into_iter().map(|(process, _)| process).collect()
        }
        None => return Ok(()),
    };
    processes.iter().try_for_each(|process| process.signal(Signal::CONT))
}

/// Whether the first process is stopped.
pub(super) fn is_stopped(first: &HostProcess) -> bool {
    ProcessStat::read(first.pid).is_ok_and(|stat| stat.state == 'T' && stat.start_time == first.start_time)
}

/// A process and all its descendants, with their states.
fn family(first: HostProcess) -> io::Result<Vec<(HostProcess, char)>> {
    let mut children: HashMap<u32, Vec<(u32, ProcessStat)>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(stat) = ProcessStat::read(pid) {
            children.entry(stat.parent).or_default().push((pid, stat));
        }
    }
    let head = ProcessStat::read(first.pid)?;
    if head.start_time != first.start_time {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut family = vec![(first, head.state)];
    let mut next = 0;
    while let Some((process, _)) = family.get(next) {
        for (pid, stat) in children.remove(&process.pid).unwrap_or_default() {
            family.push((HostProcess { pid, start_time: stat.start_time }, stat.state));
        }
        next += 1;
    }
    Ok(family)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_family_stops_and_goes_on_as_a_whole() {
        let mut child = Command::new("sh").args(["-c", "sleep 100 & sleep 100 & wait"]).spawn().unwrap();
        let first = HostProcess::of(child.id()).unwrap();
        while family(first).unwrap().len() < 3 {
            std::thread::yield_now();
        }
        stop(first).unwrap();
        assert!(is_stopped(&first));
        assert!(family(first).unwrap().iter().all(|(_, state)| *state == 'T'));
        go_on(first).unwrap();
        assert!(!is_stopped(&first));
        for (process, _) in family(first).unwrap() {
            process.kill(Duration::from_secs(5)).unwrap();
        }
        child.wait().unwrap();
    }
}
