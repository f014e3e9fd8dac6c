use std::{io, os::fd::OwnedFd, rc::Rc, time::Duration};

use rustix::{io::Errno, process::Signal};
use sandbar_protocol::FrameKind;
use tokio::{io::Interest, time::Instant};

use crate::{agent::Agent, process::Process, watched::Watched};

/// After the end of a process its output is waited for this long, when somebody else still holds its pipes and says nothing.
const QUIET: Duration = Duration::from_millis(250);
/// And no longer than this, when somebody else goes on writing.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes after which the other tasks get their turn.
const TURN: usize = 256 << 10;

/// A stream of a process's output.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) fd: Rc<Watched>,
    pub(crate) kind: FrameKind,
}

/// When a process is made to end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) grace: Duration,
}

/// What happened after the process itself was reaped.
#[derive(Debug)]
struct Aftermath {
    ended: Instant,
    /// Until when silence is waited for.
    quiet: Instant,
    /// Bytes that were in the pipes when it ended: its own last words.
    owed: u64,
}

/// Moves output from the pipes into the ring for as long as there is somebody who could write to them, ends the process when its time
/// is over, and says when it has ended.
///
/// The end is told when the process was reaped and its pipes are at their end. A background process that inherited them does not delay
/// that for ever: after the end, everything that is in the pipes is taken, and then 250 ms without output suffice, or 2 s in
/// all. What comes later still goes to the ring.
pub(crate) async fn run(agent: Rc<Agent>, process: Rc<Process>, mut sources: Vec<Source>, mut deadline: Option<Deadline>) {
    let mut aftermath: Option<Aftermath> = None;
    let mut turn = 0;
    loop {
        let exit = process.exit();
        if exit.is_some() && aftermath.is_none() {
            let now = Instant::now();
            let waiting = |source: &Source| rustix::io::ioctl_fionread(source.fd.get_ref()).unwrap_or(0);
            aftermath = Some(Aftermath { ended: now, quiet: now + QUIET, owed: sources.iter().map(waiting).sum() });
        }
        // However much it says: what waits for the alarm below has no turn while there is something to be read.
        if exit.is_none() && deadline.is_some_and(|deadline| Instant::now() >= deadline.at) {
            deadline = expire(&process, deadline);
        }
        // Before it is looked for the last time what there is: what came until then is told.
        let looked = Instant::now();
        let moved = pass(&agent, &process, &mut sources, exit.is_some());
        if moved > 0
            && let Some(aftermath) = &mut aftermath
        {
            aftermath.owed = aftermath.owed.saturating_sub(moved as u64);
            aftermath.quiet = Instant::now() + QUIET;
        }
        let done = process.status().is_some();
        if let (Some(status), Some(aftermath), false) = (exit, &aftermath, done) {
            let silent = looked >= aftermath.quiet && has_room(&process, &sources);
            let patient = !silent && looked < aftermath.ended + PATIENCE;
            if sources.is_empty() || (!patient && (aftermath.owed == 0 || moved == 0 && has_room(&process, &sources))) {
                process.finish(status);
                agent.table.ended(&process);
                continue;
            }
        }
        if process.forgotten.get() || (done && sources.is_empty()) {
            if let (Some(status), false) = (exit, done) {
                // Another has its number; who still listens hears of the end.
                process.finish(status);
            }
            return;
        }
        if moved > 0 {
            turn += moved;
            if turn >= TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
            continue;
        }
        let alarm = match (&aftermath, done) {
            (Some(_), true) => None,
            (Some(aftermath), false) => Some(aftermath.quiet.min(aftermath.ended + PATIENCE)),
            (None, _) => deadline.map(|deadline| deadline.at),
        };
        // A ring that is full for its slowest client is not waited at with a timer: only that client, or its end, changes something.
        let room = has_room(&process, &sources);
        let [first, second] = [sources.first(), sources.get(1)].map(|source| source.filter(|_| room));
        tokio::select! {
            biased;
            () = readable(first) => {}
            () = readable(second) => {}
            () = process.space.notified() => {}
            () = process.exited.notified(), if exit.is_none() => {}
            () = until(alarm.filter(|_| room || aftermath.is_none())) => {}
        }
    }
}

/// Reads each stream once.
///
/// When the process has ended, the kernel itself is asked: the event loop may not have heard yet of what is there, however long ago that
/// was on a busy machine, and the end must not be told before the last words.
fn pass(agent: &Agent, process: &Process, sources: &mut Vec<Source>, ended: bool) -> usize {
    let mut scratch = agent.scratch.borrow_mut();
    let mut moved = 0;
    sources.retain(|source| {
        let room = process.ring.borrow().room(source.kind, process.floor()).min(scratch.len());
        if room == 0 {
            return true;
        }
        let mut outcome = source.fd.try_io(Interest::READABLE, |fd| read(fd, &mut scratch[..room]));
        if ended && outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            outcome = read(source.fd.get_ref(), &mut scratch[..room]);
        }
        match outcome {
            Ok(length) if length > 0 => {
                process.push(source.kind, &scratch[..length]);
                moved += length;
                true
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => true,
            // The end of a pipe; a terminal says EIO.
            Ok(_) | Err(_) => {
                process.terminal.replace(None);
                false
            }
        }
    });
    moved
}

/// Reads what is there. A terminal's end counts when it is told twice: the kernel looks for data first and for the close of the other end
/// second, so what was written and closed in between is behind an `EIO`, but not behind another one, whose look came after the close.
fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    match rustix::io::read(fd, &mut *buffer) {
        Err(Errno::IO) => Ok(rustix::io::read(fd, buffer)?),
        other => Ok(other?),
    }
}

fn has_room(process: &Process, sources: &[Source]) -> bool {
    let ring = process.ring.borrow();
    sources.iter().all(|source| ring.room(source.kind, process.floor()) > 0)
}

/// TERM first, KILL after the grace.
fn expire(process: &Process, deadline: Option<Deadline>) -> Option<Deadline> {
    if process.timed_out.replace(true) {
        process.hint(Signal::KILL);
        return None;
    }
    process.hint(Signal::TERM);
    // A stopped process would not hear of it.
    process.hint(Signal::CONT);
    deadline.map(|deadline| Deadline { at: Instant::now() + deadline.grace, ..deadline })
}

async fn readable(source: Option<&Source>) {
    match source {
        // The next pass reads, and is told when there was nothing.
        Some(source) => drop(source.fd.ready(Interest::READABLE).await),
        None => std::future::pending().await,
    }
}

async fn until(alarm: Option<Instant>) {
    match alarm {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
