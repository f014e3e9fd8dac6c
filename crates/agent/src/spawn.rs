//! Starting a command: pipes or a terminal, fork, and the wait for exec to have happened.
#![expect(unsafe_code, reason = "a raw clone: nothing of the C library's bookkeeping is needed by a child that only execs")]

use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    fs::OFlags,
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal},
};
use sandbar_protocol::{Failure, PtySize};
use tokio::io::Interest;

use crate::{
    agent::Agent,
    child::{Image, REPORT, Step, Streams, become_command, parse_report},
    command::Command,
    failure::{Kind, Result, failure, shown, system, system_as},
    readiness, terminal,
};

/// A child may be stopped by a hostile process of the same user before it gets to exec; it is not waited for for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// A child on its way to exec.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// The agent's ends of its streams.
    pub(crate) ends: Ends,
    report: OwnedFd,
}

/// The agent's ends: non-blocking.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
}

/// Forks. The child's success is not known before [`Child::started`] has said so.
pub(crate) fn fork(agent: &Agent, command: &Command, pty: Option<PtySize>, stdin: bool) -> Result<Child> {
    let (report, child_report) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(no_pipe)?;
    let mut image = Image::new(command);
    if let Some(size) = pty {
        let (terminal, peer) = terminal::open(size, command.user.uid)?;
        let fd = peer.as_fd();
        let streams = Streams { stdin: fd, stdout: fd, stderr: fd, terminal: true };
        let pid = clone(&mut image, agent, streams, &child_report)?;
        return Ok(Child { pid, report, ends: Ends { terminal: Some(terminal), ..Ends::default() } });
    }
    let (stdout, child_stdout) = output_pipe()?;
    let (stderr, child_stderr) = output_pipe()?;
    let input = if stdin { Some(input_pipe()?) } else { None };
    let child_stdin = input.as_ref().map_or(agent.null.as_fd(), |(read, _)| read.as_fd());
    let streams = Streams { stdin: child_stdin, stdout: child_stdout.as_fd(), stderr: child_stderr.as_fd(), terminal: false };
    let pid = clone(&mut image, agent, streams, &child_report)?;
    let stdin = input.map(|(_, write)| write);
    Ok(Child { pid, report, ends: Ends { stdin, stdout: Some(stdout), stderr: Some(stderr), terminal: None } })
}

impl Child {
    /// Waits until the command runs. A child that failed ends by itself.
    pub(crate) async fn started(self, command: &Command) -> Result<Ends> {
        let Self { pid, ends, report } = self;
        let report =
            readiness::register(report, Interest::READABLE).map_err(|error| crate::failure::io("cannot watch the child", &error))?;
        let read = report.async_io(Interest::READABLE, |fd| {
            let mut bytes = [0; REPORT];
            Ok((rustix::io::read(fd, &mut bytes)?, bytes))
        });
        match tokio::time::timeout(PATIENCE, read).await {
            // The pipe was closed by exec.
            Ok(Ok((0, _))) => Ok(ends),
            Ok(Ok((_, bytes))) => Err(explain(command, parse_report(bytes))),
            Ok(Err(error)) => Err(crate::failure::io("cannot hear from the child", &error)),
            Err(_) => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                Err(failure(Kind::TimedOut, format!("the command did not start within {} s", PATIENCE.as_secs())))
            }
        }
    }
}

fn clone(image: &mut Image<'_>, agent: &Agent, streams: Streams<'_>, report: &OwnedFd) -> Result<Pid> {
    // SAFETY: a fork (no shared memory, no new stack). The child runs nothing but `become_command`, which never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(libc::SIGCHLD), 0, 0, 0, 0) };
    if pid == 0 {
        // SAFETY: this is the forked child.
        unsafe { become_command(image, &agent.rules, streams, report.as_fd()) }
    }
    match i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|_| pid > 0) {
        Some(pid) => Ok(pid),
        None => {
            let errno = Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::AGAIN);
            Err(system_as(Kind::ResourceExhausted, "cannot start another process", errno))
        }
    }
}

fn output_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(no_pipe)?;
    rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK).map_err(no_pipe)?;
    Ok((read, write))
}

fn input_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(no_pipe)?;
    rustix::fs::fcntl_setfl(&write, OFlags::NONBLOCK).map_err(no_pipe)?;
    Ok((read, write))
}

fn no_pipe(errno: Errno) -> Failure {
    system("cannot make a pipe", errno)
}

fn explain(command: &Command, (step, errno): (Step, Errno)) -> Failure {
    let name = shown(command.arguments.first().map(|name| name.as_bytes()).unwrap_or_default());
    if errno == Errno::AGAIN || errno == Errno::NOMEM || errno == Errno::NFILE {
        return system_as(Kind::ResourceExhausted, format!("cannot start {name}"), errno);
    }
    match (step, errno) {
        (Step::Exec, Errno::NOENT | Errno::NOTDIR) => system_as(Kind::CommandNotFound, format!("command {name} does not exist"), errno),
        (Step::Exec, Errno::TOOBIG) => system_as(Kind::InvalidInput, "arguments and environment are too large together", errno),
        (Step::Exec, _) => system_as(Kind::CommandNotExecutable, format!("command {name} cannot be executed"), errno),
        (Step::Interpreter, _) => system_as(Kind::CommandNotExecutable, format!("the interpreter of {name} does not exist"), errno),
        (Step::Workdir, _) => {
            let path = shown(command.workdir.as_bytes());
            let message = match errno {
                Errno::NOENT => format!("working directory {path} does not exist"),
                _ => format!("working directory {path} cannot be entered"),
            };
            system_as(Kind::InvalidInput, message, errno)
        }
        (Step::Identity, _) => {
            let user = &command.user;
            system_as(Kind::PermissionDenied, format!("cannot become user {}:{}", user.uid, user.gid), errno)
        }
        (Step::Limits, _) => system("cannot set the limits of the command", errno),
        (Step::Session, _) => system("cannot make a session for the command", errno),
        (Step::Streams, _) => system("cannot set up the streams of the command", errno),
        (Step::OomScore, _) => system("cannot set the oom score of the command", errno),
        (Step::Capabilities | Step::Privileges, _) => system("cannot drop the capabilities of the command", errno),
    }
}
