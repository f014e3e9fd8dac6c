use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use sandbar_core::{Error, ErrorKind, ExecInput, PtySize, Result, Signal};
use sandbar_protocol::{FrameError, FrameKind, Input, input};

use super::{
    Backend,
    client::Call,
    exec::wire_size,
    rejoin::{Joined, Session},
};

/// The writing half of a client.
pub(super) struct LiveInput<B: Backend> {
    pub(super) call: Call<B>,
    pub(super) session: Arc<Session>,
    /// The connection that was written to last.
    pub(super) joined: Joined,
    /// Bytes of stdin that the process has taken, or will: what was there before, and what was written.
    pub(super) taken: u64,
    pub(super) stdin: bool,
    pub(super) pty: bool,
    /// Its end was told.
    pub(super) ended: bool,
    /// The other half has heard that the process closed its stdin, or has ended.
    pub(super) closed: Arc<AtomicBool>,
}

impl<B: Backend> LiveInput<B> {
    /// Takes note of a new connection.
    ///
    /// # Errors
    /// `Unavailable` when the process has not taken all that was written before: those bytes are lost.
    async fn catch_up(&mut self) -> Result<()> {
        let joined = self.session.joined();
        if joined.count == self.joined.count {
            return Ok(());
        }
        self.begin_again(joined, 0)?;
        // The end of the input may have been lost with the connection. A pipe can end twice; on a terminal it would be typed.
        if self.ended && !self.pty {
            let sent = self.session.writer.lock().await.end().await;
            self.sent(sent).await?;
        }
        Ok(())
    }

    /// Goes on over a new connection, while `pending` bytes may or may not have been taken, and says how many were.
    fn begin_again(&mut self, joined: Joined, pending: usize) -> Result<usize> {
        let went_back = joined.epoch != self.joined.epoch;
        self.joined = joined;
        let written = std::mem::replace(&mut self.taken, joined.input);
        if went_back {
            return if pending == 0 { Ok(0) } else { Err(self.lost("the sandbox was put back while its input was written")) };
        }
        match joined.input.checked_sub(written).and_then(|taken| usize::try_from(taken).ok()) {
            Some(taken) if taken <= pending => Ok(taken),
            // What was typed can be typed again, and several may type at one terminal.
            taken if self.pty => Ok(taken.unwrap_or_default().min(pending)),
            _ => Err(self.lost("the sandbox was saved while its input was on the way")),
        }
    }

    fn lost(&self, why: &str) -> Error {
        Error::new(ErrorKind::Unavailable, self.call.verb, format!("{why}, and it is not known how much of it has arrived"))
    }

    async fn sent(&mut self, sent: Result<(), FrameError>) -> Result<()> {
        match sent {
            Ok(()) => Ok(()),
            // The agent closes when the process has ended: its status is on the other half.
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(Error::new(ErrorKind::Unavailable, self.call.verb, "the process does not take input any more").with_source(error))
            }
            Err(error) => Err(self.call.explain(error).await),
        }
    }

    async fn say(&mut self, what: input::What) -> Result<()> {
        let message = Input { what: Some(what) };
        self.catch_up().await?;
        let sent = self.session.writer.lock().await.message(&message).await;
        if sent.is_err() && self.call.can_be_saved() && self.session.after(self.joined.count).await.is_some() {
            self.catch_up().await?;
            let sent = self.session.writer.lock().await.message(&message).await;
            return self.sent(sent).await;
        }
        self.sent(sent).await
    }
}

#[async_trait]
impl<B: Backend> ExecInput for LiveInput<B> {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        if !self.stdin {
            return Err(Error::new(ErrorKind::InvalidInput, self.call.verb, "stdin is closed, or was not asked for"));
        }
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, self.call.verb, "the process does not take input any more"));
        }
        self.catch_up().await?;
        let mut rest = data;
        loop {
            let sent = self.session.writer.lock().await.bytes(FrameKind::Bytes, &rest).await;
            if sent.is_ok() || !self.call.can_be_saved() {
                self.taken = self.taken.wrapping_add(rest.len() as u64);
                return self.sent(sent).await;
            }
            let Some(joined) = self.session.after(self.joined.count).await else { return self.sent(sent).await };
            let taken = self.begin_again(joined, rest.len())?;
            rest.advance(taken);
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    async fn close(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.stdin) {
            return Ok(());
        }
        self.catch_up().await?;
        self.ended = true;
        let sent = self.session.writer.lock().await.end().await;
        self.sent(sent).await
    }

    async fn signal(&mut self, signal: Signal) -> Result<()> {
        self.say(input::What::Signal(signal.0)).await
    }

    async fn resize(&mut self, size: PtySize) -> Result<()> {
        if !self.pty {
            return Err(Error::new(ErrorKind::InvalidInput, self.call.verb, "the process has no terminal"));
        }
        self.say(input::What::Resize(wire_size(size))).await
    }
}
