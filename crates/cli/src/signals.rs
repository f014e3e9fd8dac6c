//! The signals that this process gets, as events.

use sandbar_core::{Context, Error, Signal};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A signal that is meant for the command.
    Signal(Signal),
    /// The terminal has another size.
    Resized,
    /// This process was stopped and goes on.
    Continued,
}

/// Listens from its making on: nothing that comes later ends this process by default.
pub(crate) struct Signals {
    interrupt: Stream,
    terminate: Stream,
    hangup: Stream,
    quit: Stream,
    user1: Stream,
    user2: Stream,
    resized: Stream,
    continued: Stream,
}

impl Signals {
    /// Starts to listen.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn listen() -> Result<Self, Error> {
        let on = |kind| signal(kind).context("signals", || "cannot listen".to_owned());
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: on(SignalKind::hangup())?,
            quit: on(SignalKind::quit())?,
            user1: on(SignalKind::user_defined1())?,
            user2: on(SignalKind::user_defined2())?,
            resized: on(SignalKind::window_change())?,
            continued: on(SignalKind::from_raw(18))?,
        })
    }

    /// The next one.
    pub(crate) async fn next(&mut self) -> Heard {
        // The numbers are the guest's: those of Linux on x86-64 and arm64.
        tokio::select! {
            _ = self.interrupt.recv() => Heard::Signal(Signal::INT),
            _ = self.terminate.recv() => Heard::Signal(Signal::TERM),
            _ = self.hangup.recv() => Heard::Signal(Signal::HUP),
            _ = self.quit.recv() => Heard::Signal(Signal(3)),
            _ = self.user1.recv() => Heard::Signal(Signal(10)),
            _ = self.user2.recv() => Heard::Signal(Signal(12)),
            _ = self.resized.recv() => Heard::Resized,
            _ = self.continued.recv() => Heard::Continued,
        }
    }

    /// What `work` gives, or the signal that asks this process to end before.
    pub(crate) async fn or<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Signal> {
        tokio::select! {
            done = work => Ok(done),
            signal = self.ended() => Err(signal),
        }
    }

    /// The next one that asks this process to end.
    async fn ended(&mut self) -> Signal {
        loop {
            if let Heard::Signal(signal @ (Signal::INT | Signal::TERM | Signal::HUP)) = self.next().await {
                return signal;
            }
        }
    }
}
