use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use rustix::process::{Pid, Signal, WaitStatus};
use tokio::sync::Notify;

use crate::{
    failure::{Kind, Result, failure},
    process::Process,
};

/// Most processes that run at a time.
pub(crate) const MAX_RUNNING: usize = 4096;
/// Most that have ended and are remembered.
const MAX_ENDED: usize = 256;
/// Most memory that the rings of those hold.
const MAX_ENDED_BYTES: usize = 16 << 20;

/// A child on its way to exec. It may be reaped before the event loop has heard that there is one.
#[derive(Debug)]
pub(crate) struct Pending {
    /// Zero until there is a child.
    pid: Arc<AtomicI32>,
    status: Cell<Option<WaitStatus>>,
}

impl Pending {
    /// Whether there is, or was, a child.
    pub(crate) fn is_there(&self) -> bool {
        self.pid.load(Ordering::Relaxed) != 0
    }

    /// Signals it, if it is there and was not reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        if let (None, Some(pid)) = (self.status.get(), Pid::from_raw(self.pid.load(Ordering::Relaxed))) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

/// The processes that exec started.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pending: RefCell<Vec<Rc<Pending>>>,
    /// Children that were not reaped, by process id.
    alive: RefCell<BTreeMap<i32, Rc<Process>>>,
    /// In the order of their start.
    known: RefCell<VecDeque<Rc<Process>>>,
    /// In the order of their end.
    ended: RefCell<VecDeque<Rc<Process>>>,
    /// Some child was reaped.
    pub(crate) reaped: Notify,
}

impl Table {
    /// A child will come, or was tried to be made.
    pub(crate) fn expect(&self, pid: Arc<AtomicI32>) -> Rc<Pending> {
        let pending = Rc::new(Pending { pid, status: Cell::new(None) });
        self.pending.borrow_mut().push(Rc::clone(&pending));
        pending
    }

    /// The reaper found a child that is nobody's yet.
    pub(crate) fn reaped_early(&self, pid: Pid, status: WaitStatus) {
        let pending = self.pending.borrow();
        if let Some(pending) = pending.iter().find(|pending| pending.pid.load(Ordering::Relaxed) == pid.as_raw_pid()) {
            pending.status.set(Some(status));
        }
    }

    /// What was expected has come, or not.
    pub(crate) fn came(&self, pending: &Rc<Pending>) {
        self.pending.borrow_mut().retain(|other| !Rc::ptr_eq(other, pending));
    }

    /// A command runs: from now on it can be asked for. One of the same number ended before, and gives way.
    pub(crate) fn started(&self, process: &Rc<Process>, pending: &Pending) {
        match pending.status.get() {
            Some(status) => process.reaped(status),
            None => drop(self.alive.borrow_mut().insert(process.pid.as_raw_pid(), Rc::clone(process))),
        }
        let same = |known: &Rc<Process>| known.pid == process.pid;
        self.known.borrow().iter().filter(|known| same(known)).for_each(|known| self.forget(known));
        self.known.borrow_mut().retain(|known| !same(known));
        self.ended.borrow_mut().retain(|known| !same(known));
        self.known.borrow_mut().push_back(Rc::clone(process));
    }

    /// It has ended and its output was taken.
    pub(crate) fn ended(&self, process: &Rc<Process>) {
        process.ring.borrow_mut().shrink();
        let mut ended = self.ended.borrow_mut();
        ended.push_back(Rc::clone(process));
        while ended.len() > MAX_ENDED {
            if let Some(oldest) = ended.pop_front() {
                self.known.borrow_mut().retain(|known| !Rc::ptr_eq(known, &oldest));
                self.forget(&oldest);
            }
        }
        let mut held = 0;
        for process in ended.iter().rev() {
            let mut ring = process.ring.borrow_mut();
            held += ring.held();
            if held > MAX_ENDED_BYTES && process.attached() == 0 {
                held -= ring.held();
                ring.clear();
            }
        }
    }

    /// Those that can be asked for, in the order of their start.
    pub(crate) fn all(&self) -> Vec<Rc<Process>> {
        self.known.borrow().iter().cloned().collect()
    }

    /// Those whose first process was not reaped.
    pub(crate) fn running(&self) -> Vec<Rc<Process>> {
        self.alive.borrow().values().cloned().collect()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.alive.borrow().len() + self.pending.borrow().len() >= MAX_RUNNING
    }

    pub(crate) fn find(&self, pid: u32) -> Result<Rc<Process>> {
        let known = self.known.borrow();
        let found = known.iter().rev().find(|process| process.pid.as_raw_pid().cast_unsigned() == pid);
        found.cloned().ok_or_else(|| failure(Kind::NotFound, format!("process {pid} was not started by exec, or is not remembered")))
    }

    /// Takes the one that is about to be reaped.
    pub(crate) fn take_alive(&self, pid: Pid) -> Option<Rc<Process>> {
        self.alive.borrow_mut().remove(&pid.as_raw_pid())
    }

    fn forget(&self, process: &Process) {
        process.forgotten.set(true);
        process.space.notify_waiters();
    }
}
