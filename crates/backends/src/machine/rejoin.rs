//! A client of a process whose connection was cut because memory was saved or put back, and who goes on where it was.

use std::time::Duration;

use sandbar_core::{Error, ErrorKind, Result};
use sandbar_protocol::{Attach, FrameError, Started, reply::Answer, request::Operation};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};

use super::{
    Backend, Facts, answer,
    client::{Call, Patience, Reader, Writer},
    live::Running,
    saving,
};

/// How long a save, or a restore, may keep a client waiting.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between looks at a place that stands still.
const STILL: Duration = Duration::from_millis(20);
/// Between attempts.
const RETRY: Duration = Duration::from_millis(5);
/// Cuts in a row without a byte of output between them: an agent that cuts its clients off for ever is not listened to for ever.
const MOST_IN_VAIN: u32 = 20;

/// What both halves of a client share.
pub(super) struct Session {
    pub(super) pid: u32,
    /// The connection's writing half, replaced when the client comes back.
    pub(super) writer: Mutex<Writer>,
    joined: watch::Sender<Joined>,
    kill_on_disconnect: bool,
}

/// How a client came to its present connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Joined {
    /// Counts connections.
    pub(super) count: u32,
    /// Of the agent's memory.
    pub(super) epoch: u32,
    /// Bytes of stdin that the process had taken by then.
    pub(super) input: u64,
    /// There will be no further connection.
    is_over: bool,
}

/// Where the reading half stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: u64,
    in_vain: u32,
    /// The offset at the last cut.
    last: u64,
}

impl Place {
    pub(super) fn at(offset: u64) -> Self {
        Self { offset, in_vain: 0, last: offset }
    }
}

impl Session {
    pub(super) fn new(pid: u32, writer: Writer, started: &Started, kill_on_disconnect: bool) -> Self {
        let joined = Joined { count: 0, epoch: started.epoch, input: started.input, is_over: false };
        Self { pid, writer: Mutex::new(writer), joined: watch::Sender::new(joined), kill_on_disconnect }
    }

    /// The present connection.
    pub(super) fn joined(&self) -> Joined {
        *self.joined.borrow()
    }

    /// The connection that comes after one, when the reading half has made it; `None` when there will be none.
    pub(super) async fn after(&self, count: u32) -> Option<Joined> {
        let mut joined = self.joined.subscribe();
        let next = joined.wait_for(|joined| joined.count > count || joined.is_over);
        let next = timeout(PATIENCE + saving::LONG, next).await.ok()?.ok().map(|joined| *joined)?;
        (next.count > count).then_some(next)
    }

    /// Nobody reads any more.
    pub(super) fn end(&self) {
        self.joined.send_modify(|joined| joined.is_over = true);
    }

    /// Attaches again after a cut, from where the client was. Leaves `call` on the generation that is in force.
    ///
    /// # Errors
    /// Why the connection was cut, where that was no save: the sandbox or its agent is gone, or was put back to a time before the process.
    pub(super) async fn rejoin<B: Backend>(&self, call: &mut Call<B>, place: &mut Place, cut: FrameError) -> Result<Reader> {
        place.in_vain = if place.offset == place.last { place.in_vain + 1 } else { 1 };
        place.last = place.offset;
        if !call.can_be_saved() || !matches!(cut, FrameError::Cut | FrameError::Io(_)) || place.in_vain > MOST_IN_VAIN {
            return Err(call.explain(cut).await);
        }
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            let current = call.shared.current();
            if current.record.generation != call.running.current().record.generation {
                match Running::of(current) {
                    Some(running) if running.current().record.renewal.is_some() => call.running = running,
                    _ => return Err(call.explain(cut).await),
                }
            }
            if let Some(note) = call.save_note() {
                let begun = Instant::now();
                note.over().await;
                deadline += begun.elapsed();
            }
            // What is asked of a machine that stands still is heard when it goes on, however long nobody waits for it by then: as of a client that has left.
            if call.shared.facts(&call.running) == Facts::Frozen && !call.running.current().is_paused() && Instant::now() < deadline {
                tokio::time::sleep(STILL).await;
                continue;
            }
            let Joined { count, epoch, .. } = self.joined();
            let attach =
                Attach { pid: self.pid, from: Some(place.offset), epoch: Some(epoch), kill_on_disconnect: self.kill_on_disconnect };
            let error = match call.ask_unsaved(Operation::Attach(attach), Patience::Quick).await {
                Ok((link, Answer::Started(started))) if started.pid == self.pid => {
                    // In the same memory it goes on exactly where it was.
                    if started.epoch == epoch && started.offset != place.offset {
                        return Err(answer::nonsense(call.verb, "another offset than was asked for"));
                    }
                    place.offset = started.offset;
                    place.last = started.offset;
                    *self.writer.lock().await = link.writer;
                    self.joined.send_replace(Joined {
                        count: count.wrapping_add(1),
                        epoch: started.epoch,
                        input: started.input,
                        is_over: false,
                    });
                    return Ok(link.reader);
                }
                Ok(_) => return Err(call.unexpected()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let message = "the sandbox was put back to a time before this process";
                    return Err(Error::new(ErrorKind::Unavailable, call.verb, message).with_source(error));
                }
                Err(error) => error,
            };
            let facts = call.shared.facts(&call.running);
            let is_gone = matches!(facts, Facts::Gone(_)) && !self.was_replaced(call);
            // It may have come to stand still meanwhile.
            let may_return = error.kind() == ErrorKind::Unavailable || facts == Facts::Frozen && !call.running.current().is_paused();
            if is_gone || !may_return || Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn was_replaced<B: Backend>(&self, call: &Call<B>) -> bool {
        call.shared.current().record.generation != call.running.current().record.generation
    }
}
