use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use rustix::process::Pid;
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

/// The processes that exec started.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Children that were not reaped, by process id; those on their way to exec too.
    alive: RefCell<BTreeMap<i32, Rc<Process>>>,
    /// In the order of their start.
    known: RefCell<VecDeque<Rc<Process>>>,
    /// In the order of their end.
    ended: RefCell<VecDeque<Rc<Process>>>,
    /// Some child was reaped.
    pub(crate) reaped: Notify,
}

impl Table {
    /// A child was forked.
    pub(crate) fn forked(&self, process: &Rc<Process>) {
        self.alive.borrow_mut().insert(process.pid.as_raw_pid(), Rc::clone(process));
    }

    /// Its exec succeeded: from now on it can be asked for. One of the same number ended before, and gives way.
    pub(crate) fn started(&self, process: &Rc<Process>) {
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
        self.alive.borrow().len() >= MAX_RUNNING
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
