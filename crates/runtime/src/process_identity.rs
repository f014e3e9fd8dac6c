//! Processes as the ledger names them: an id alone is used again by the kernel, an id with a start time within one boot is not.

use std::{fs, io::ErrorKind as Io};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal},
};
use sandbar_core::{Context, Error, ErrorKind, Result};

/// One host process of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    /// The host's process id.
    pub(crate) pid: u32,
    /// Clock ticks after boot.
    pub(crate) start_time: u64,
    /// The boot in which it runs.
    pub(crate) boot: String,
}

impl ProcessIdentity {
    /// This process.
    pub(crate) fn current(boot: &str) -> Result<Self> {
        let pid = getpid().as_raw_nonzero().get().unsigned_abs();
        let start_time = start_time(pid)?
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "state", "/proc does not show this process").with("pid", pid))?;
        Ok(Self { pid, start_time, boot: boot.to_owned() })
    }

    /// Whether it runs in `boot`, the present one. What cannot be told counts as alive: nothing is undone on a doubt.
    pub(crate) fn is_alive(&self, boot: &str) -> bool {
        self.boot == boot
            && match start_time(self.pid) {
                Ok(now) => now == Some(self.start_time),
                Err(_) => true,
            }
    }

    /// Ends it with `KILL` and waits at most two seconds until it is gone. One that is gone already, or is another process by now, is no error.
    pub(crate) fn kill(&self, boot: &str) -> Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        let handle = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(Errno::SRCH) => return Ok(()),
            Err(error) => return Err(Error::io("keeper", "cannot open the process", error.into()).with("pid", self.pid)),
        };
        // The descriptor names whoever has the id now; only then is the start time worth asking.
        if self.boot != boot || start_time(self.pid)? != Some(self.start_time) {
            return Ok(());
        }
        match pidfd_send_signal(&handle, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(Error::io("keeper", "cannot end the process", error.into()).with("pid", self.pid)),
        }
        let wait = Timespec { tv_sec: 2, tv_nsec: 0 };
        let _ = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&wait));
        Ok(())
    }
}

/// The start time of a process, `/proc/PID/stat` field 22 (proc(5)); `None` if there is no such process or it has ended and is only not yet reaped.
fn start_time(pid: u32) -> Result<Option<u64>> {
    let text = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error) if error.kind() == Io::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => return Ok(None),
        Err(error) => return Err(error).context("state", || format!("cannot read /proc/{pid}/stat")),
    };
    // The name (field 2) may hold spaces and parentheses; the last parenthesis ends it.
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    if matches!(fields.next(), None | Some("Z" | "X" | "x")) {
        return Ok(None);
    }
    Ok(fields.nth(18).and_then(|field| field.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_in_this_boot_only() {
        let me = ProcessIdentity::current("boot").unwrap();
        assert!(me.is_alive("boot"));
        assert!(!me.is_alive("another"));
        assert!(!ProcessIdentity { start_time: me.start_time + 1, ..me }.is_alive("boot"));
    }

    #[test]
    fn a_killed_process_is_not_alive_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let identity = ProcessIdentity { pid: child.id(), start_time: start_time(child.id()).unwrap().unwrap(), boot: "boot".into() };
        assert!(identity.is_alive("boot"));
        identity.kill("another").unwrap();
        assert!(identity.is_alive("boot"));
        identity.kill("boot").unwrap();
        assert!(!identity.is_alive("boot"));
        child.wait().unwrap();
        identity.kill("boot").unwrap();
    }
}
