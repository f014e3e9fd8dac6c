use std::{
    ffi::OsString,
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sandbar_core::{Context, Error, ErrorKind, Journal, Lifetime, Result, Volume};

use crate::{
    host::offspring::{self, Life},
    machine::{launcher, process::HostProcess},
};

const OPERATION: &str = "launch";

/// A program to be started.
pub(crate) struct Launch<'a> {
    /// The agent's file, which does it.
    pub(crate) agent: &'a Path,
    /// The program, by its path.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// Its working directory.
    pub(crate) folder: &'a Path,
    /// The name of the file in the folder that gets what it says.
    pub(crate) log: &'a str,
    /// Whether it ends with this process.
    pub(crate) lifetime: Lifetime,
    /// What gets what it prints on standard output; nothing where `None`.
    pub(crate) output: Option<File>,
    /// What the ledger calls it.
    pub(crate) role: &'a str,
    /// The ledger.
    pub(crate) journal: &'a Arc<dyn Journal>,
}

impl Launch<'_> {
    /// Starts the program, with an empty environment, a session of its own, and nothing inherited. It is written down after it exists and
    /// before it runs anything but the agent's file, which waits for that and ends when this process does before. Blocks.
    ///
    /// # Errors
    /// Of the kernel, or of the journal.
    pub(crate) fn start(self) -> Result<HostProcess> {
        self.start_after(|_| Ok(()))
    }

    /// The same, with something to be done between the writing down and the running.
    ///
    /// # Errors
    /// As [`start`](Self::start), or of what is to be done: then nothing has run.
    pub(crate) fn start_after(self, ready: impl FnOnce(HostProcess) -> Result<()>) -> Result<HostProcess> {
        let log = File::options().create(true).write(true).truncate(true).mode(0o600).open(self.folder.join(self.log));
        let log = log.context(OPERATION, || format!("cannot open {}", self.folder.join(self.log).display()))?;
        let owner = if self.lifetime == Lifetime::Owned { std::process::id() } else { 0 };
        let mut command = Command::new(self.agent);
        command.arg("launch").arg(owner.to_string()).arg(self.program).args(self.arguments);
        command
            .env_clear()
            .current_dir(self.folder)
            .stdin(Stdio::piped())
            .stdout(self.output.map_or_else(Stdio::null, Stdio::from))
            .stderr(log);
        let failed = |error| Error::io(OPERATION, "cannot start a program", error).with("program", self.program.display());
        // The kernel ties it to the thread that starts it.
        let mut child = launcher::launch(move || command.spawn()).and_then(|spawned| spawned).map_err(failed)?;
        let input = child.stdin.take();
        let mut told = None;
        let released = HostProcess::of(child.id()).map_err(failed).and_then(|process| {
            let resource = process.resource(self.role);
            self.journal.intend(&resource)?;
            told = Some(resource);
            ready(process)?;
            match input.map(|mut input| input.write_all(b"1")) {
                Some(Ok(())) => keep(process, &child).map_err(failed),
                _ => Err(Error::new(ErrorKind::Unavailable, OPERATION, "the program ended before it began")
                    .with("program", self.program.display())),
            }
        });
        match released {
            Ok(process) => Ok(process),
            Err(error) => {
                // It waits for a byte, and has done nothing.
                let _ = child.kill();
                let _ = child.wait();
                told.map_or(Ok(()), |resource| self.journal.forget(&resource))?;
                Err(error)
            }
        }
    }
}

/// Starts the process that owns the single pipe of a machine whose folder this is (see the agent's `pipe`); returns when it listens. It ends with
/// the machine. Blocks.
///
/// # Errors
/// `Unavailable` when it does not come up; `AlreadyExists` when another one owns the pipe.
pub(crate) fn start_pipe(agent: &Path, folder: &Path) -> Result<HostProcess> {
    let mut command = Command::new(agent);
    command.arg("pipe").arg(folder).stdin(Stdio::null());
    start_companion(command, folder, "pipe.log", "the process that owns the machine's pipe")
}

/// Starts the process that keeps what a machine prints (see the agent's `console`), which comes out of `printed`; returns when it reads. It ends with the
/// machine. With `owned`, a machine that has not begun yet, it ends that with this process. Blocks.
///
/// # Errors
/// `Unavailable` when it does not come up.
pub(crate) fn start_console(agent: &Path, folder: &Path, printed: OwnedFd, owned: Option<HostProcess>) -> Result<HostProcess> {
    let mut command = Command::new(agent);
    command.arg("console").arg(folder).stdin(printed);
    if let Some(machine) = owned {
        command.args([std::process::id().to_string(), machine.pid.to_string()]);
    }
    start_companion(command, folder, "keeping.log", "the process that keeps what the machine prints")
}

/// Starts the process that serves a volume to the guest at the other end of a connection (see the agent's `share`); returns when it has begun. It ends with
/// the connection. Blocks.
///
/// # Errors
/// `Unavailable` when it does not come up.
pub(crate) fn start_share(agent: &Path, folder: &Path, log: &str, volume: &Volume, guest: OwnedFd) -> Result<HostProcess> {
    let mut command = Command::new(agent);
    command.arg("share").arg(folder).arg(if volume.read_only { "ro" } else { "rw" }).arg(&volume.source).stdin(guest);
    start_companion(command, folder, log, "the process that serves a volume")
}

/// Starts a process beside a machine, which says a byte when it is ready.
fn start_companion(mut command: Command, folder: &Path, log: &str, what: &str) -> Result<HostProcess> {
    let path = folder.join(log);
    let log = File::options().create(true).append(true).mode(0o600).open(&path);
    let log = log.context(OPERATION, || format!("cannot open {}", path.display()))?;
    command.env_clear().current_dir("/").stdout(Stdio::piped()).stderr(log);
    let failed = |error| Error::io(OPERATION, "cannot start a process beside the machine", error).with("process", what);
    let mut child = launcher::launch(move || command.spawn()).and_then(|spawned| spawned).map_err(failed)?;
    let process = HostProcess::of(child.id()).map_err(failed)?;
    let said = child.stdout.take().map_or(Ok(0), |mut output| {
        // It says something or ends within its own deadline.
        let mut byte = [0];
        output.read(&mut byte)
    });
    if matches!(said, Ok(1)) {
        return keep(process, &child).map_err(failed);
    }
    let _ = child.kill();
    let _ = child.wait();
    let log = std::fs::read_to_string(path).unwrap_or_default();
    let last = log.lines().last().unwrap_or("it said nothing").to_owned();
    Err(Error::new(ErrorKind::Unavailable, OPERATION, format!("{what} did not come up")).with("said", last))
}

/// Why a machine is gone, as the end of a sentence that begins with its name; `None` while it runs.
pub(crate) fn how_ended(process: &HostProcess) -> Option<String> {
    match offspring::life(process) {
        Life::Alive => None,
        Life::Gone(ended) => Some(ended.map_or_else(|| "is gone".to_owned(), |ended| ended.to_string())),
    }
}

/// Ends a process at once, and waits until it is gone. One that is gone is no error.
///
/// # Errors
/// `TimedOut`.
pub(crate) fn end(process: &HostProcess, patience: Duration) -> io::Result<()> {
    process.kill(patience)?;
    offspring::wait(process, patience);
    offspring::forget(process);
    Ok(())
}

/// Has a child reaped when somebody asks for it.
fn keep(process: HostProcess, child: &Child) -> io::Result<HostProcess> {
    // It is a child that nobody has waited for, so the number is still its own.
    let pid = Pid::from_child(child);
    offspring::add(process, pidfd_open(pid, PidfdFlags::empty())?);
    Ok(process)
}
