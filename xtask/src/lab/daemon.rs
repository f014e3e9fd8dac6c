use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
};

use rustix::io::{FdFlags, fcntl_setfd};

use super::relay::Tail;
use crate::outcome::Failure;

/// A program beside us, which the kernel kills when we die, however we die.
pub struct Daemon {
    child: Child,
    /// What it says on standard error.
    pub log: Tail,
}

/// A program to be started.
pub struct Launch<'a> {
    command: Command,
    inherited: Vec<BorrowedFd<'a>>,
}

impl<'a> Launch<'a> {
    /// By the name or path of a program.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new("setpriv");
        // A group of its own: the terminal's Ctrl-C is for us, and we end it.
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Self { command, inherited: Vec::new() }
    }

    /// One more argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(argument);
        self
    }

    /// Several.
    pub fn args<S: AsRef<OsStr>>(&mut self, arguments: impl IntoIterator<Item = S>) -> &mut Self {
        self.command.args(arguments);
        self
    }

    /// Lets it have a descriptor, under the same number.
    pub fn inherit(&mut self, descriptor: &'a impl AsFd) -> RawFd {
        let descriptor = descriptor.as_fd();
        self.inherited.push(descriptor);
        descriptor.as_raw_fd()
    }

    /// Starts it. No other thread may start programs meanwhile: they would inherit the descriptors too.
    pub fn start(mut self) -> Result<Daemon, Failure> {
        for descriptor in &self.inherited {
            fcntl_setfd(descriptor, FdFlags::empty()).map_err(io::Error::from)?;
        }
        let started = self.command.spawn();
        for descriptor in &self.inherited {
            fcntl_setfd(descriptor, FdFlags::CLOEXEC).map_err(io::Error::from)?;
        }
        let name = self.command.get_args().nth(3).unwrap_or_default().to_string_lossy().into_owned();
        let mut child = started.map_err(|error| Failure::new(format!("cannot start {name}: {error}")))?;
        let log = child.stderr.take().map_or_else(Tail::default, Tail::of);
        Ok(Daemon { child, log })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
