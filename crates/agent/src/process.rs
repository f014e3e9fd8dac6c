use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitStatus},
};
use sandbar_protocol::{FrameKind, Process as Record, Status};
use tokio::sync::Notify;

use crate::{
    agent::Agent,
    failure::{Kind, Result, failure, system},
    ring::Ring,
    signals, terminal,
    watched::Watched,
};

/// One process that exec started, from fork until it is forgotten.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    pub(crate) line: String,
    started_ms: u64,
    ended_ms: Cell<Option<u64>>,
    /// How the process itself ended, as soon as it was reaped. From then on its number may be another's.
    exit: Cell<Option<Status>>,
    /// What clients are told, when the output has ended as well.
    status: Cell<Option<Status>>,
    pub(crate) timed_out: Cell<bool>,
    /// Signals to a process that was reaped.
    pub(crate) exited: Notify,
    pub(crate) ring: RefCell<Ring>,
    /// Where each attached client is; `None` marks a free place.
    cursors: RefCell<Vec<Option<u64>>>,
    /// There is something new for clients.
    pub(crate) news: Notify,
    /// There is room in the ring, or nothing to wait for any more.
    pub(crate) space: Notify,
    /// The agent's end of stdin, while it is open.
    pub(crate) stdin: RefCell<Option<Rc<Watched>>>,
    /// The agent's end of its terminal, while it is open.
    pub(crate) terminal: RefCell<Option<Rc<Watched>>>,
    pub(crate) pty: bool,
    /// Nobody can ask for it any more.
    pub(crate) forgotten: Cell<bool>,
    /// Bytes of stdin that were taken for it.
    pub(crate) input: Cell<u64>,
    /// How far its output had come when the agent was last made quiet, to be saved.
    pub(crate) saved_at: Cell<u64>,
}

impl Process {
    pub(crate) fn new(agent: &Agent, pid: Pid, line: String, pty: bool) -> Self {
        Self {
            pid,
            line,
            started_ms: now_ms(),
            ended_ms: Cell::new(None),
            exit: Cell::new(None),
            status: Cell::new(None),
            timed_out: Cell::new(false),
            exited: Notify::new(),
            ring: RefCell::new(Ring::new(agent.ring_bytes, Rc::clone(&agent.budget))),
            cursors: RefCell::default(),
            news: Notify::new(),
            space: Notify::new(),
            stdin: RefCell::new(None),
            terminal: RefCell::new(None),
            pty,
            forgotten: Cell::new(false),
            input: Cell::new(0),
            saved_at: Cell::new(0),
        }
    }

    /// The reaper's word.
    pub(crate) fn reaped(&self, status: WaitStatus) {
        self.ended_ms.set(Some(now_ms()));
        self.exit.set(Some(Status { code: status.exit_status(), signal: status.terminating_signal(), timed_out: self.timed_out.get() }));
        self.exited.notify_waiters();
    }

    pub(crate) fn exit(&self) -> Option<Status> {
        self.exit.get()
    }

    pub(crate) fn status(&self) -> Option<Status> {
        self.status.get()
    }

    /// The pump's word: the output has ended, or is not waited for any longer.
    pub(crate) fn finish(&self, status: Status) {
        self.status.set(Some(status));
        self.stdin.replace(None);
        self.news.notify_waiters();
    }

    /// Signals the group, and what the terminal says is in front of the user.
    pub(crate) fn signal(&self, number: i32) -> Result<()> {
        let signal = signals::from_number(number).ok_or_else(|| failure(Kind::InvalidInput, format!("{number} is not a signal")))?;
        // Reaping and this run on one thread: while it was not reaped, the number is this process's.
        if self.exit.get().is_some() {
            return Err(failure(Kind::Conflict, format!("process {} has ended", self.pid.as_raw_pid())));
        }
        if let Some(terminal) = &*self.terminal.borrow() {
            terminal::signal_foreground(terminal.get_ref(), self.pid, signal);
        }
        match rustix::process::kill_process_group(self.pid, signal) {
            // Between fork and setsid there is no such group yet.
            Err(Errno::SRCH) => rustix::process::kill_process(self.pid, signal),
            other => other,
        }
        .map_err(|errno| system(format!("cannot signal process {}", self.pid.as_raw_pid()), errno))
    }

    /// As [`signal`](Self::signal), where nobody is there to hear of a failure.
    pub(crate) fn hint(&self, signal: Signal) {
        let _ = self.signal(signal.as_raw());
    }

    /// The slowest client's offset.
    pub(crate) fn floor(&self) -> Option<u64> {
        self.cursors.borrow().iter().flatten().min().copied()
    }

    pub(crate) fn attached(&self) -> usize {
        self.cursors.borrow().iter().flatten().count()
    }

    /// Takes output from the pump.
    pub(crate) fn push(&self, kind: FrameKind, data: &[u8]) {
        self.ring.borrow_mut().push(kind, data);
        self.news.notify_waiters();
    }

    pub(crate) fn record(&self, epoch: u32) -> Record {
        let ring = self.ring.borrow();
        Record {
            pid: self.pid.as_raw_pid().cast_unsigned(),
            command: self.line.clone(),
            started_ms: self.started_ms,
            ended_ms: self.ended_ms.get(),
            // Those who list are not held up by a client that does not read to the end.
            status: self.exit.get(),
            pty: self.pty,
            attached: u32::try_from(self.attached()).unwrap_or(u32::MAX),
            output_start: ring.start(),
            output_end: ring.end(),
            epoch,
        }
    }
}

/// A client's place in a process's output. Nothing from there on is forgotten while it exists.
#[derive(Debug)]
pub(crate) struct Cursor {
    process: Rc<Process>,
    index: usize,
}

impl Cursor {
    /// Stands at an offset that is kept.
    pub(crate) fn new(process: &Rc<Process>, offset: u64) -> Self {
        let mut cursors = process.cursors.borrow_mut();
        let index = cursors.iter().position(Option::is_none).unwrap_or_else(|| {
            cursors.push(None);
            cursors.len() - 1
        });
        cursors[index] = Some(offset);
        Self { process: Rc::clone(process), index }
    }

    pub(crate) fn offset(&self) -> u64 {
        self.process.cursors.borrow().get(self.index).copied().flatten().unwrap_or(u64::MAX)
    }

    pub(crate) fn advance(&self, bytes: u64) {
        if let Some(Some(offset)) = self.process.cursors.borrow_mut().get_mut(self.index) {
            *offset += bytes;
        }
        self.process.space.notify_waiters();
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if let Some(place) = self.process.cursors.borrow_mut().get_mut(self.index) {
            *place = None;
        }
        self.process.space.notify_waiters();
    }
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
