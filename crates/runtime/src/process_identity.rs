//! Processes as the ledger names them: an id alone is used again by the kernel, an id with a start time within one boot is not.

use std::time::Duration;

use rustix::process::{Pid, getpid};
use sandbar_core::{Error, ErrorKind, Result};

use crate::system::{self, start_time};

/// How long a process that was killed may take to end. It costs nothing where it does.
const PATIENCE: Duration = Duration::from_secs(30);

/// One host process of one boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcessIdentity {
    /// The host's process id.
    pub(crate) pid: u32,
    /// When it began, in the kernel's own count: clock ticks after boot on Linux.
    pub(crate) start_time: u64,
    /// The boot in which it runs.
    pub(crate) boot: String,
}

impl ProcessIdentity {
    /// This process.
    pub(crate) fn current(boot: &str) -> Result<Self> {
        let pid = getpid().as_raw_nonzero().get().unsigned_abs();
        let start_time = start_time(pid)?
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "state", "the kernel does not show this process").with("pid", pid))?;
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

    /// Whether it is alive and not on its way out: one that is has no turn any more to do anything, though its locks may still be held.
    pub(crate) fn works(&self, boot: &str) -> bool {
        self.is_alive(boot) && !system::is_ending(self.pid, self.start_time)
    }

    /// Ends it with `KILL` and waits until it is gone, which takes a moment, or on a busy machine as long as it has no turn. One that is gone already, or is another
    /// process by now, is no error.
    ///
    /// # Errors
    /// `TimedOut` when it lives on; of the kernel.
    pub(crate) fn kill(&self, boot: &str) -> Result<()> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        system::kill(pid, PATIENCE, || Ok(self.boot == boot && start_time(self.pid)? == Some(self.start_time)))
    }
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
