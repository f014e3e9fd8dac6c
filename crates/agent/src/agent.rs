use std::{
    cell::{Cell, RefCell},
    os::unix::net::UnixStream,
    rc::Rc,
    sync::{Arc, Weak},
};

use sandbar_protocol::GuestWire;
use tokio::{
    sync::{Notify, Semaphore},
    task::AbortHandle,
    time::Instant,
};

use crate::{
    egress,
    failure::{Kind, Result, failure},
    forks::Forks,
    guest::{self, Guest},
    process::Cursor,
    ring::Budget,
    settings::Settings,
    spawn::Spawner,
    table::Table,
    watched::Roll,
};

/// Most connections at a time.
pub(crate) const MAX_CONNECTIONS: usize = 4096;
/// Most threads that work on files; what is over waits its turn.
const MAX_TRANSFERS: usize = 64;
/// Most watches, each of which is a thread as long as its client stays.
const MAX_WATCHES: usize = 64;
/// Most volumes, each of which is two threads as long as it is served.
const MAX_SHARES: usize = 64;
/// Output kept for a process unless the configuration says otherwise.
const RING_BYTES: u64 = 1 << 20;
/// Most output kept for a process, whatever the configuration says.
const MAX_RING_BYTES: u64 = 256 << 20;
/// All rings together hold at most this many full ones (and the floor of each).
const FULL_RINGS: usize = 64;

/// What all connections share. One thread only.
#[derive(Debug)]
pub(crate) struct Agent {
    settings: RefCell<Rc<Settings>>,
    pub(crate) spawner: Spawner,
    /// What is in the event loop and stays there when connections go.
    pub(crate) roll: Rc<Roll>,
    /// What only the first process of a kernel has.
    pub(crate) guest: Option<Guest>,
    pub(crate) table: Table,
    pub(crate) forks: Forks,
    pub(crate) ring_bytes: usize,
    pub(crate) budget: Rc<Budget>,
    /// Where output passes through on its way from a pipe to a ring.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    /// Counts memory restores.
    pub(crate) epoch: Cell<u32>,
    /// The end of everything has begun.
    pub(crate) closing: Cell<bool>,
    /// Every connection is to be dropped.
    pub(crate) cut: Notify,
    /// How often they were, for those that are not listening to it yet.
    pub(crate) cuts: Cell<u32>,
    /// Nothing is accepted until then, or until somebody wakes the agent.
    pub(crate) silent_until: Cell<Option<Instant>>,
    /// The places of clients that were cut off to be saved: they come back to them.
    pub(crate) cut_off: RefCell<Vec<Cursor>>,
    /// The end of the time they have for that.
    pub(crate) returning: RefCell<Option<AbortHandle>>,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) transfers: Arc<Semaphore>,
    pub(crate) watches: Arc<Semaphore>,
    pub(crate) shares: Arc<Semaphore>,
    /// Who decides about what leaves.
    pub(crate) egress: Rc<egress::Host>,
    /// Connections that threads hold, so that they can be cut.
    pub(crate) lent: RefCell<Vec<Weak<UnixStream>>>,
    /// Those of them that the layer is sent over.
    pub(crate) layers: RefCell<Vec<Weak<UnixStream>>>,
}

impl Agent {
    pub(crate) fn new(settings: Settings, spawner: Spawner, guest: Option<Guest>) -> Self {
        let config = &settings.config;
        let ring_bytes = if config.ring_bytes == 0 { RING_BYTES } else { config.ring_bytes.min(MAX_RING_BYTES) };
        let ring_bytes = usize::try_from(ring_bytes).unwrap_or(usize::MAX);
        let is_on_vsock = is_on_vsock(&settings);
        Self {
            settings: RefCell::new(Rc::new(settings)),
            spawner,
            roll: Rc::default(),
            guest,
            table: Table::default(),
            forks: Forks::default(),
            ring_bytes,
            budget: Budget::new(ring_bytes.saturating_mul(FULL_RINGS)),
            scratch: RefCell::new(vec![0; 64 << 10].into_boxed_slice()),
            epoch: Cell::new(0),
            closing: Cell::new(false),
            cut: Notify::new(),
            cuts: Cell::new(0),
            silent_until: Cell::new(None),
            cut_off: RefCell::default(),
            returning: RefCell::default(),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            transfers: Arc::new(Semaphore::new(MAX_TRANSFERS)),
            watches: Arc::new(Semaphore::new(MAX_WATCHES)),
            shares: Arc::new(Semaphore::new(MAX_SHARES)),
            egress: egress::Host::new(is_on_vsock),
            lent: RefCell::default(),
            layers: RefCell::default(),
        }
    }

    /// Whether connections come by vsock, which its monitors end as a whole only.
    pub(crate) fn is_on_vsock(&self) -> bool {
        is_on_vsock(&self.settings())
    }

    /// What the sandbox is.
    pub(crate) fn settings(&self) -> Rc<Settings> {
        Rc::clone(&self.settings.borrow())
    }

    /// Makes it another, from the next command on.
    pub(crate) fn set(&self, settings: Settings) {
        self.settings.replace(Rc::new(settings));
    }

    /// Ends the agent, and with it the sandbox.
    pub(crate) fn end(&self) -> ! {
        if self.guest.is_some() { guest::power_off() } else { std::process::exit(0) }
    }

    /// Refuses what makes no sense any more at the end.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closing.get() { Err(failure(Kind::Unavailable, "the sandbox is shutting down")) } else { Ok(()) }
    }

    /// Cuts everybody off until somebody wakes the agent, or until this time. Their places in the output are kept for them.
    pub(crate) fn quiesce(&self, until: Option<Instant>) {
        self.silent_until.set(until);
        // Those who were cut off for an earlier save have as long as the others.
        if let Some(returning) = self.returning.take() {
            returning.abort();
        }
        for process in self.table.all() {
            process.saved_at.set(process.ring.borrow().end());
            if let Some(floor) = process.floor() {
                self.cut_off.borrow_mut().push(Cursor::new(&process, floor));
            }
        }
        self.egress.cut_connections();
        self.cut_connections();
    }

    /// Drops every connection, those held by threads too.
    pub(crate) fn cut_connections(&self) {
        self.cuts.set(self.cuts.get().wrapping_add(1));
        self.cut.notify_waiters();
        for socket in self.lent.take().iter().chain(&self.layers.take()).filter_map(Weak::upgrade) {
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn is_on_vsock(settings: &Settings) -> bool {
    settings.config.guest.as_ref().is_some_and(|guest| guest.wire() == GuestWire::Vsock)
}
