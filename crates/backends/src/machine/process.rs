//! Processes of the host, held so that they cannot be mistaken.

use std::{
    fs, io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use sandbar_core::Resource;
use serde::{Deserialize, Serialize};

/// A process of the host that cannot be mistaken for another: its id and when it was started.
///
/// The boot is not part of it; the ledger notices a reboot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostProcess {
    /// The process id.
    pub pid: u32,
    /// Clock ticks after boot (`/proc/PID/stat`, field 22).
    pub start_time: u64,
}

impl HostProcess {
    /// Whether a stop is pending that takes effect before the process runs any more of its own code. A parent that waits for its `vfork` child to
    /// execute cannot stop before that, and if the child was stopped first, it waits: it is as good as stopped.
    pub(crate) fn stop_is_pending(&self) -> bool {
        /// `SIGSTOP` is 19.
        const STOP: u64 = 1 << 18;
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let pending = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
        let stops = pending.filter_map(|set| u64::from_str_radix(set.trim(), 16).ok()).any(|set| set & STOP != 0);
        stops && Self::of(self.pid).is_ok_and(|now| now == *self)
    }

    /// The process that has this id now.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, start_time: ProcessStat::read(pid)?.start_time })
    }

    /// Holds the process by a descriptor; `None` when it is gone, or the id is another process's by now.
    ///
    /// # Errors
    /// Of the kernel, other than that it does not exist.
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let descriptor = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            opened => opened?,
        };
        // Only now: as long as the descriptor says that it lives, the id cannot have become another's.
        match ProcessStat::read(self.pid) {
            Ok(stat) if stat.start_time == self.start_time && stat.state != 'Z' && !has_exited(&descriptor)? => Ok(Some(descriptor)),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it exists and has not exited.
    pub fn is_alive(&self) -> bool {
        self.open().is_ok_and(|held| held.is_some())
    }

    /// Whether a signal has stopped it, and none has let it go on.
    pub fn is_stopped(&self) -> bool {
        ProcessStat::read(self.pid).is_ok_and(|stat| stat.start_time == self.start_time && stat.state == 'T')
    }

    /// Whether it is on its way out and has not exited: what it had open may be closed by now.
    pub fn is_ending(&self) -> bool {
        let is_it = |stat: ProcessStat| stat.start_time == self.start_time && stat.is_ending && (stat.state != 'Z' || stat.threads > 1);
        ProcessStat::read(self.pid).is_ok_and(is_it)
    }

    /// Sends a signal; a process that is gone is no error.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match self.open()?.map_or(Ok(()), |held| pidfd_send_signal(held, signal)) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends it at once and waits until it has exited (whether or not anybody has reaped it). Blocks for at most `patience`.
    ///
    /// # Errors
    /// `TimedOut`, or of the kernel.
    pub fn kill(&self, patience: Duration) -> io::Result<()> {
        let Some(held) = self.open()? else { return Ok(()) };
        match pidfd_send_signal(&held, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
        if wait_for_exit(&held, patience)? { Ok(()) } else { Err(io::Error::new(io::ErrorKind::TimedOut, "the process does not end")) }
    }

    /// As a row of the ledger.
    pub fn resource(&self, role: &str) -> Resource {
        Resource::Process { pid: self.pid, start_time: self.start_time, role: role.to_owned() }
    }
}

/// Whether the process behind a pidfd has exited.
fn has_exited(held: &OwnedFd) -> io::Result<bool> {
    wait_for_exit(held, Duration::ZERO)
}

/// Waits until the process behind a pidfd has exited; `false` when `patience` is over before.
///
/// # Errors
/// Of the kernel.
pub fn wait_for_exit(held: &OwnedFd, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(held, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What `/proc/PID/stat` tells, as far as it is needed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// `R`, `S`, `T`, `Z` ….
    pub state: char,
    /// Its parent.
    pub parent: u32,
    /// Whether its first thread is on its way out, or has ended.
    pub is_ending: bool,
    /// Its threads that are left, and the first one, which stays until all have ended.
    pub threads: u32,
    /// Clock ticks after boot.
    pub start_time: u64,
}

impl ProcessStat {
    /// Reads it.
    ///
    /// # Errors
    /// `NotFound` when there is no such process; `InvalidData` for a line that is none.
    pub fn read(pid: u32) -> io::Result<Self> {
        let line = fs::read(format!("/proc/{pid}/stat")).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::SRCH) => io::ErrorKind::NotFound.into(),
            _ => error,
        })?;
        Self::parse(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a line of /proc/PID/stat"))
    }

    fn parse(line: &[u8]) -> Option<Self> {
        /// `PF_EXITING` of the kernel's: set before what the process has open is closed.
        const EXITING: u32 = 0x4;
        // The second field is the name in parentheses, which the process chooses itself, parentheses and spaces included.
        let after_name = line.iter().rposition(|byte| *byte == b')')? + 1;
        let mut fields = std::str::from_utf8(&line[after_name..]).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        // Fields 9, 20 and 22; the parent is field 4.
        let flags: u32 = fields.nth(4)?.parse().ok()?;
        let threads = fields.nth(10)?.parse().ok()?;
        let start_time = fields.nth(1)?.parse().ok()?;
        Some(Self { state, parent, is_ending: flags & EXITING != 0, threads, start_time })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        let line = b"42 (a) S 1 (b) R 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 12345 1 2 3";
        let found = ProcessStat { state: 'R', parent: 7, is_ending: false, threads: 1, start_time: 12345 };
        assert_eq!(ProcessStat::parse(line), Some(found));
        let ending = String::from_utf8_lossy(line).replace("4194304", "4194308");
        assert_eq!(ProcessStat::parse(ending.as_bytes()), Some(ProcessStat { is_ending: true, ..found }));
        assert_eq!(ProcessStat::parse(b"42 (x) R"), None);
    }

    #[test]
    fn a_process_is_known_by_its_start_time_too() {
        let me = HostProcess::of(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!HostProcess { start_time: me.start_time + 1, ..me }.is_alive());
    }

    #[test]
    fn a_stopped_process_lives_and_is_seen_to_be_stopped() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let process = HostProcess::of(child.id()).unwrap();
        assert!(!process.is_stopped());
        process.signal(Signal::STOP).unwrap();
        let wait = |options| rustix::process::waitpid(Pid::from_raw(child.id().cast_signed()), options).unwrap().unwrap().1;
        assert!(wait(rustix::process::WaitOptions::UNTRACED).stopped());
        assert!(process.is_alive() && process.is_stopped());
        process.signal(Signal::CONT).unwrap();
        assert!(wait(rustix::process::WaitOptions::CONTINUED).continued());
        assert!(!process.is_stopped());
        process.kill(Duration::from_secs(10)).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_is_ending_has_not_exited_and_is_seen_to_end() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let child_of = |pid: u32| {
            loop {
                let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
                if let Ok(child) = children.trim().parse::<u32>() {
                    break HostProcess::of(child).unwrap();
                }
            }
        };
        // The first process of a PID namespace has closed all of its own, and has not exited before everybody in the namespace was waited for.
        let mut outer = Command::new("unshare").args(["--pid", "--fork", "sleep", "100"]).spawn().unwrap();
        let first = child_of(outer.id());
        let mut holder = Command::new("nsenter").args(["--target", &first.pid.to_string(), "--pid", "sleep", "100"]).spawn().unwrap();
        child_of(holder.id());
        let held = HostProcess::of(holder.id()).unwrap();
        held.signal(Signal::STOP).unwrap();
        while !held.is_stopped() {}
        assert!(!first.is_ending());
        first.signal(Signal::KILL).unwrap();
        while !first.is_ending() {}
        assert!(first.is_alive());
        held.signal(Signal::CONT).unwrap();
        outer.wait().unwrap();
        holder.wait().unwrap();
        assert!(!first.is_ending() && !first.is_alive());
    }

    #[test]
    fn a_zombie_is_gone_and_killing_it_is_no_error() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let process = HostProcess::of(child.id()).unwrap();
        assert!(process.is_alive());
        process.kill(Duration::from_secs(10)).unwrap();
        assert!(!process.is_alive());
        process.kill(Duration::ZERO).unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
    }
}
