//! Freezing and ending all descendants of an agent where there is no control group: by signals, as far as they reach.
//!
//! The agent is a child subreaper, so what it started stays below it whatever it does, as long as the agent lives. Processes are stopped
//! first and looked for again until no new one appears, so that none can start another while they are ended.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use sandbar_core::{Error, ErrorKind, Result};

use crate::machine::process::{HostProcess, ProcessStat};

/// How long a storm of new processes may keep us from stopping all of them.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at all processes.
const PAUSE: Duration = Duration::from_micros(200);

/// Stops the agent and everything below it; the answer is what was not stopped before.
pub(super) fn stop(agent: HostProcess) -> Result<Vec<HostProcess>> {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = HashSet::new();
    let mut stopped = Vec::new();
    loop {
        // A signal takes a moment to stop a process, in which it may still start another.
        let mut settled = true;
        for (process, state) in with_descendants(agent).map_err(cannot("look for processes"))? {
            let runs = !(matches!(state, 'T' | 't' | 'Z' | 'X') || state == 'D' && process.stop_is_pending());
            settled &= !runs;
            if seen.insert(process) && runs {
                process.signal(Signal::STOP).map_err(cannot("stop a process"))?;
                stopped.push(process);
            }
        }
        if settled {
            return Ok(stopped);
        }
        if Instant::now() > deadline {
            return Err(Error::new(
                ErrorKind::TimedOut,
                "freeze",
                "processes appear faster than they can be stopped, or wait for a device",
            ));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Lets them go on.
pub(super) fn go_on(processes: &[HostProcess]) -> Result<()> {
    processes.iter().try_for_each(|process| process.signal(Signal::CONT)).map_err(cannot("let a process go on"))
}

/// The agent and everything below it that is stopped now.
pub(super) fn stopped(agent: HostProcess) -> Result<Vec<HostProcess>> {
    let all = with_descendants(agent).map_err(cannot("look for processes"))?;
    Ok(all.into_iter().filter(|(_, state)| *state == 'T').map(|(process, _)| process).collect())
}

/// Ends the agent and everything below it, and waits for them.
pub(super) fn kill(agent: HostProcess) -> Result<()> {
    if !agent.is_alive() {
        return Ok(());
    }
    let stopped = stop(agent);
    let all = with_descendants(agent).map_err(cannot("look for processes"))?;
    // The agent last: as long as it is there, what is below it can be found.
    for (process, _) in all.iter().rev() {
        process.kill(PATIENCE).map_err(cannot("end a process"))?;
    }
    stopped.map(drop)
}

fn cannot(what: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| Error::io("signal", format!("cannot {what}"), error)
}

/// The agent first, then what is below it, parents before children.
fn with_descendants(agent: HostProcess) -> io::Result<Vec<(HostProcess, char)>> {
    let mut children: HashMap<u32, Vec<(HostProcess, char)>> = HashMap::new();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // Gone since the listing.
        let Ok(stat) = ProcessStat::read(pid) else { continue };
        let process = HostProcess { pid, start_time: stat.start_time };
        if process == agent {
            found.push((process, stat.state));
        }
        children.entry(stat.parent).or_default().push((process, stat.state));
    }
    let mut next = 0;
    while let Some((process, _)) = found.get(next) {
        found.extend(children.remove(&process.pid).unwrap_or_default());
        next += 1;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_whole_tree_is_stopped_goes_on_and_is_ended() {
        let mut shell = Command::new("sh").args(["-c", "sleep 100 & sleep 100 & echo ready; wait"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(shell.stdout.take().unwrap()), &mut line).unwrap();
        let root = HostProcess::of(shell.id()).unwrap();
        let below = stop(root).unwrap();
        assert_eq!(below.len(), 3);
        assert_eq!(stopped(root).unwrap().len(), 3);
        assert!(stop(root).unwrap().is_empty(), "what is stopped already is not ours to let go on");
        go_on(&below).unwrap();
        kill(root).unwrap();
        assert!(below.iter().all(|process| !process.is_alive()));
        kill(root).unwrap();
        shell.wait().unwrap();
    }
}
