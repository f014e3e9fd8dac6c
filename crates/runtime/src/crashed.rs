//! What is left of sandboxes whose agent or wall is gone.

use std::time::Duration;

use sandbar_core::{ErrorKind, Result, SandboxHandle, SandboxId, SandboxStatus, State};
use tokio::time::{Instant, sleep};

use crate::{Runtime, Sandbox, ledger::Operation, lock::SandboxLock};

/// An agent that the host sees alive, and that says nothing, is not given up before this: the machine may only be slow.
const SILENCE: Duration = Duration::from_secs(15);
/// Between two looks at such a one.
const AGAIN: Duration = Duration::from_millis(500);

impl Runtime {
    /// Ends what is left of a sandbox that crashed: a sentry that hangs, a monitor without its guest, groups, mounts, devices. It is stopped then,
    /// with its layer, and with the reason of the crash. One that was called crashed and answers runs again. Tells what it found; `None` where nothing
    /// crashed, or somebody works on it.
    ///
    /// # Errors
    /// When something could not be ended; it is still crashed then.
    pub(crate) async fn clear_crashed(&self, id: &SandboxId) -> Result<Option<String>> {
        let Some(lock) = SandboxLock::try_take(self.home(), id, "gc")? else { return Ok(None) };
        let Some(mut row) = self.ledger().sandbox(id)? else {
            lock.remove();
            return Ok(None);
        };
        // What was interrupted is for recovery.
        if row.operation.is_some() || !matches!(row.state, State::Running | State::Paused | State::Crashed) {
            return Ok(None);
        }
        let handle = match Sandbox::of(self.clone(), &row).handle_of(&row).await {
            Ok(handle) => handle,
            // Nothing is known to be wrong with it.
            Err(_) if row.state != State::Crashed => return Ok(None),
            Err(error) => return Err(error),
        };
        let status = settled(handle.as_ref()).await;
        if row.state != State::Crashed {
            row.reason = status.reason;
        }
        match status.state {
            State::Crashed => {}
            // Somebody gave it up too early.
            State::Running | State::Paused if row.state == State::Crashed => {
                self.ledger().correct(id, status.state, None)?;
                return Ok(Some("it answers again".to_owned()));
            }
            _ => return Ok(None),
        }
        self.ledger().begin(id, Operation::Stop, self.me())?;
        let stopped = handle.stop().await;
        let state = if stopped.is_ok() { State::Stopped } else { State::Crashed };
        self.ledger().finish(id, state, row.reason.as_deref())?;
        match stopped {
            Ok(()) => Ok(Some(row.reason.unwrap_or_else(|| "it crashed".to_owned()))),
            // Another host has no such sandbox: there is nothing to end.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
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
        let status = settled(handle.as_ref()).await;
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
}

/// The state beyond doubt: a crash by the host's facts, or by a silence for which no slowness accounts.
pub(crate) async fn settled(handle: &dyn SandboxHandle) -> SandboxStatus {
    let given_up = Instant::now() + SILENCE;
    loop {
        let status = handle.status().await;
        if status.state != State::Crashed || status.certain || Instant::now() >= given_up {
            return SandboxStatus { certain: true, ..status };
        }
        sleep(AGAIN).await;
    }
}
