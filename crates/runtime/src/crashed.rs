//! What is left of sandboxes whose agent or wall is gone.

use std::time::Duration;

use sandbar_core::{ErrorKind, Result, SandboxHandle, SandboxId, SandboxStatus, State};
use tokio::time::{Instant, sleep};

use crate::{Runtime, Sandbox, ledger::Operation, lock::SandboxLock};

/// An agent that the host sees alive, and that says nothing, is not given up before it has been seen silent for this long: the machine may only be slow.
const SILENCE: Duration = Duration::from_secs(15);
/// Between two looks at such a one.
const AGAIN: Duration = Duration::from_millis(500);
/// How long `gc` looks at one.
const LOOK: Duration = Duration::from_secs(5);
/// A request that has failed after this long may have waited for an agent that is silent.
const LONG: Duration = Duration::from_secs(5);

/// What became of a sandbox that may have crashed.
pub(crate) enum Cleared {
    /// It has not crashed, or somebody works on it.
    Nothing,
    /// What is left of it has ended, or it was taken for crashed and is not: why.
    Settled(String),
    /// Its agent is silent, not for long enough to say that it has crashed.
    InDoubt(String),
}

impl Runtime {
    /// Ends what is left of a sandbox that crashed: a sentry that hangs, a monitor without its guest, groups, mounts, devices. It is stopped then,
    /// with its layer, and with the reason of the crash. One that was called crashed and answers runs again. One whose agent is silent is looked at for some
    /// seconds; how long it was silent is remembered for the next who looks, and it is left alone until that is long enough.
    ///
    /// # Errors
    /// When something could not be ended; it is still crashed then.
    pub(crate) async fn clear_crashed(&self, id: &SandboxId) -> Result<Cleared> {
        let Some(lock) = SandboxLock::try_take(self.home(), id, "gc")? else { return Ok(Cleared::Nothing) };
        let Some(mut row) = self.ledger().sandbox(id)? else {
            lock.remove();
            return Ok(Cleared::Nothing);
        };
        // What was interrupted is for recovery.
        if row.operation.is_some() || !matches!(row.state, State::Running | State::Paused | State::Crashed) {
            return Ok(Cleared::Nothing);
        }
        let handle = match Sandbox::of(self.clone(), &row).handle_of(&row).await {
            Ok(handle) => handle,
            // Nothing is known to be wrong with it.
            Err(_) if row.state != State::Crashed => return Ok(Cleared::Nothing),
            Err(error) => return Err(error),
        };
        // What is written as crashed was given up by somebody who had waited.
        let before = if row.state == State::Crashed { SILENCE } else { row.silence };
        let (status, silence) = look(handle.as_ref(), before, LOOK).await;
        if !status.certain {
            self.ledger().note_silence(id, silence)?;
            return Ok(Cleared::InDoubt(status.reason.unwrap_or_else(|| "its agent is silent".to_owned())));
        }
        if row.state != State::Crashed {
            row.reason = status.reason;
        }
        match status.state {
            State::Crashed => {}
            // Somebody gave it up too early.
            State::Running | State::Paused if row.state == State::Crashed => {
                self.ledger().correct(id, status.state, None)?;
                return Ok(Cleared::Settled("it answers again".to_owned()));
            }
            _ => {
                if !row.silence.is_zero() {
                    self.ledger().note_answer(id)?;
                }
                return Ok(Cleared::Nothing);
            }
        }
        self.ledger().begin(id, Operation::Stop, self.me())?;
        let stopped = handle.stop_crashed().await;
        let state = if stopped.is_ok() { State::Stopped } else { State::Crashed };
        self.ledger().finish(id, state, row.reason.as_deref())?;
        match stopped {
            Ok(()) => Ok(Cleared::Settled(row.reason.unwrap_or_else(|| "it crashed".to_owned()))),
            // Another host has no such sandbox: there is nothing to end.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Cleared::Nothing),
            Err(error) => Err(error),
        }
    }
}

impl Sandbox {
    /// Finds out whether a sandbox that was told as crashed, in doubt, is; then it is written, and everybody told. Waits for its agent as long as for
    /// one on a slow machine.
    ///
    /// One that is gone, or that somebody works on meanwhile, is in no doubt.
    ///
    /// # Errors
    /// Of the ledger, or when the sandbox's provider cannot be had.
    pub async fn settle_doubt(&self) -> Result<()> {
        let Some(row) = self.runtime().ledger().sandbox(self.id())? else { return Ok(()) };
        let handle = self.handle_of(&row).await?;
        let status = settled(handle.as_ref(), row.silence).await;
        let Some(lock) = SandboxLock::try_take(self.runtime().home(), self.id(), "status")? else { return Ok(()) };
        let Some(mut now) = self.runtime().ledger().sandbox(self.id())? else {
            lock.remove();
            return Ok(());
        };
        if now.revision != row.revision || now.operation.is_some() || !matches!(now.state, State::Running | State::Paused) {
            return Ok(());
        }
        self.correct(&mut now, status)
    }

    /// Remembers what the outcome of a request says of its agent: that it answers, where it was silent before; or that it was silent while this waited.
    pub(crate) async fn heard<T>(&self, was_silent: bool, handle: &dyn SandboxHandle, begun: Instant, outcome: Result<T>) -> Result<T> {
        let waited = begun.elapsed();
        let noted = match &outcome {
            Ok(_) if was_silent => self.runtime().ledger().note_answer(self.id()),
            Err(error) if waited >= LONG && matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut) => {
                let status = handle.status().await;
                if status.state == State::Crashed && !status.certain {
                    self.runtime().ledger().note_silence(self.id(), waited)
                } else {
                    Ok(())
                }
            }
            _ => Ok(()),
        };
        // The request has its own outcome.
        let _ = noted.inspect_err(|error| tracing::debug!(id = %self.id(), error = error.chain(), "cannot note whether its agent answers"));
        outcome
    }
}

/// The state beyond doubt: a crash by the host's facts, or by a silence for which no slowness accounts. `before` is the silence that was seen already.
pub(crate) async fn settled(handle: &dyn SandboxHandle, before: Duration) -> SandboxStatus {
    look(handle, before, Duration::MAX).await.0
}

/// The same, looking for `most` at most: what is in doubt then stays so. With the silence that was seen altogether.
async fn look(handle: &dyn SandboxHandle, before: Duration, most: Duration) -> (SandboxStatus, Duration) {
    let begun = Instant::now();
    loop {
        let status = handle.status().await;
        let looked = begun.elapsed();
        let silence = before.saturating_add(looked);
        if status.state != State::Crashed || status.certain || silence >= SILENCE {
            return (SandboxStatus { certain: true, ..status }, silence);
        }
        if looked >= most {
            return (status, silence);
        }
        sleep(AGAIN).await;
    }
}
