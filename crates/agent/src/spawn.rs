//! Starting a command: pipes or a terminal, a child that shares the agent's memory until it execs, and the wait for that.
//!
//! A child made by fork costs a copy of the page tables and a fault for each page that either side touches then: a sixth of the time
//! that `true` takes. A child that borrows the memory costs nothing, but its parent, which would see its stack change under its feet,
//! must stand still until exec. As the event loop may not stand still, a thread does that; all commands are started by it, one after
//! the other. That a process of the sandbox stops such a child on its way is undone: see [`Starting::wait`].
#![expect(unsafe_code, reason = "a clone that borrows the memory has no safe wrapper")]

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    ptr,
    rc::Rc,
    sync::{Arc, atomic::AtomicI32, mpsc},
    thread,
    time::Duration,
};

use rustix::{
    fs::OFlags,
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal},
};
use sandbar_protocol::{Failure, PtySize};
use tokio::{sync::oneshot, time::Instant};

use crate::{
    agent::Agent,
    child::{Image, Rules, Step, Streams, become_command},
    command::Command,
    failure::{Kind, Result, failure, shown, system, system_as},
    table::Pending,
    terminal,
};

/// A child that has not come to exec by then is suspected to have been stopped.
const SUSPICION: Duration = Duration::from_millis(200);
/// One that has not by then is given up.
const PATIENCE: Duration = Duration::from_secs(10);
/// The stack of the thread, which only waits.
const THREAD_STACK: usize = 64 << 10;
/// The stack of a child, in units of its alignment: some system calls deep.
const CHILD_STACK: usize = (64 << 10) / size_of::<u128>();

/// The thread that starts commands.
#[derive(Debug)]
pub(crate) struct Spawner {
    jobs: mpsc::Sender<Job>,
}

/// A command to be started.
#[derive(Debug)]
struct Job {
    command: Arc<Command>,
    rules: Arc<Rules>,
    ends: ChildEnds,
    /// Written by the kernel as soon as there is a child.
    pid: Arc<AtomicI32>,
    outcome: oneshot::Sender<Outcome>,
}

/// The process, or at which step it failed: none, when there was no child.
type Outcome = std::result::Result<Pid, (Option<Step>, Errno)>;

/// The child's ends of its streams.
#[derive(Debug)]
enum ChildEnds {
    Terminal(OwnedFd),
    Pipes { stdin: Option<OwnedFd>, stdout: OwnedFd, stderr: OwnedFd },
}

/// The agent's ends: non-blocking.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdout: Option<OwnedFd>,
    pub(crate) stderr: Option<OwnedFd>,
    pub(crate) terminal: Option<OwnedFd>,
}

/// A command on its way.
#[derive(Debug)]
pub(crate) struct Starting {
    command: Arc<Command>,
    ends: Ends,
    pub(crate) pending: Rc<Pending>,
    outcome: oneshot::Receiver<Outcome>,
}

impl Spawner {
    /// Starts the thread. Commands without stdin read `null`.
    pub(crate) fn start(null: OwnedFd) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let work = move || {
            let mut stack = vec![0_u128; CHILD_STACK];
            for Job { command, rules, ends, pid, outcome } in queue {
                let streams = match &ends {
                    ChildEnds::Terminal(peer) => {
                        Streams { stdin: peer.as_fd(), stdout: peer.as_fd(), stderr: peer.as_fd(), terminal: true }
                    }
                    ChildEnds::Pipes { stdin, stdout, stderr } => {
                        let stdin = stdin.as_ref().map_or(null.as_fd(), |stdin| stdin.as_fd());
                        Streams { stdin, stdout: stdout.as_fd(), stderr: stderr.as_fd(), terminal: false }
                    }
                };
                let started = clone(&command, &rules, streams, &pid, &mut stack);
                // Before the event loop hears of it, so that the child's ends are the child's alone.
                drop(ends);
                // A request that was given up needs no answer.
                let _ = outcome.send(started);
            }
        };
        thread::Builder::new().stack_size(THREAD_STACK).spawn(work)?;
        Ok(Self { jobs })
    }
}

/// Makes the streams and hands the command over.
pub(crate) fn start(agent: &Agent, command: Command, pty: Option<PtySize>, stdin: bool) -> Result<Starting> {
    let (ends, child_ends) = match pty {
        Some(size) => {
            let (terminal, peer) = terminal::open(size, command.user.uid)?;
            (Ends { terminal: Some(terminal), ..Ends::default() }, ChildEnds::Terminal(peer))
        }
        None => {
            let (stdout, child_stdout) = output_pipe()?;
            let (stderr, child_stderr) = output_pipe()?;
            let (child_stdin, stdin) = if stdin { input_pipe().map(|(read, write)| (Some(read), Some(write)))? } else { (None, None) };
            let ends = Ends { stdin, stdout: Some(stdout), stderr: Some(stderr), terminal: None };
            (ends, ChildEnds::Pipes { stdin: child_stdin, stdout: child_stdout, stderr: child_stderr })
        }
    };
    let (sender, outcome) = oneshot::channel();
    let (command, pid) = (Arc::new(command), Arc::new(AtomicI32::new(0)));
    let rules = Arc::clone(&agent.settings().rules);
    let job = Job { command: Arc::clone(&command), rules, ends: child_ends, pid: Arc::clone(&pid), outcome: sender };
    agent.spawner.jobs.send(job).map_err(|_| failure(Kind::Internal, "the thread that starts commands is gone"))?;
    Ok(Starting { command, ends, pending: agent.table.expect(pid), outcome })
}

impl Starting {
    /// Waits until the command runs, or has failed.
    ///
    /// A hostile process may stop a child before it has come to exec. It is continued, and killed when that does not help. How long others take that are
    /// before it in the queue counts for nothing.
    pub(crate) async fn wait(self) -> Result<(Pid, Ends)> {
        let Self { command, ends, pending, mut outcome } = self;
        let mut begun = None;
        let mut given_up = false;
        let started = loop {
            tokio::select! {
                biased;
                started = &mut outcome => break started,
                () = tokio::time::sleep(SUSPICION) => {
                    if pending.is_there() {
                        given_up |= begun.get_or_insert_with(Instant::now).elapsed() >= PATIENCE;
                    }
                    pending.signal(if given_up { Signal::KILL } else { Signal::CONT });
                }
            }
        };
        match started {
            Ok(Ok(_)) if given_up => Err(failure(Kind::TimedOut, format!("the command did not start within {} s", PATIENCE.as_secs()))),
            Ok(Ok(pid)) => Ok((pid, ends)),
            Ok(Err((Some(step), errno))) => Err(explain(&command, (step, errno))),
            Ok(Err((None, errno))) => Err(system_as(Kind::ResourceExhausted, "cannot start another process", errno)),
            Err(_) => Err(failure(Kind::Internal, "the thread that starts commands is gone")),
        }
    }
}

/// What a child needs, in the memory that it shares with the thread.
struct Shared<'job> {
    image: Image<'job>,
    rules: &'job Rules,
    streams: Streams<'job>,
    /// Written by the child.
    failed: Option<(Step, Errno)>,
}

extern "C" fn enter(shared: *mut libc::c_void) -> libc::c_int {
    // SAFETY: it is the pointer that `clone` passed, and the thread that owns it stands still until this child has gone or execed.
    unsafe {
        let shared = &mut *shared.cast::<Shared<'_>>();
        shared.failed = Some(become_command(&mut shared.image, shared.rules, shared.streams));
        // Ends this process, without running anything that is the agent's to run.
        libc::_exit(127)
    }
}

/// Makes a child; returns when it has execed, or failed.
fn clone(command: &Command, rules: &Rules, streams: Streams<'_>, pid: &AtomicI32, stack: &mut [u128]) -> Outcome {
    let mut shared = Shared { image: Image::new(command), rules, streams, failed: None };
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
    // SAFETY: the stack is the child's alone, grows down from its end, and is aligned as every architecture wants it. With CLONE_VFORK
    // this thread, whose memory `shared` is and whose thread-local storage the child uses, does not run before the child has left both.
    let child = unsafe { libc::clone(enter, stack.as_mut_ptr_range().end.cast(), flags, (&raw mut shared).cast(), pid.as_ptr()) };
    if child < 0 {
        return Err((None, Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::AGAIN)));
    }
    // SAFETY: a plain read of this thread's memory, as another program counter than this function's has written it.
    match unsafe { ptr::read_volatile(&raw const shared.failed) } {
        Some((step, errno)) => Err((Some(step), errno)),
        None => Pid::from_raw(child).ok_or((None, Errno::AGAIN)),
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
