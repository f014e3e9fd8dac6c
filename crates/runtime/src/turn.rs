//! One life-cycle verb on one sandbox, from taking its lock to writing the outcome.

use std::sync::Arc;

use sandbar_core::{Result, SandboxHandle, SandboxStatus, State, Verb};

use crate::{
    Sandbox,
    crashed::settled,
    fault,
    ledger::{Operation, SandboxRow},
    lock::SandboxLock,
    runtime::gone,
};

/// A verb under way. It must come to [`end`](Self::end); if it does not (this process dies), the row stays in transition without a lock,
/// which is what recovery looks for.
pub(crate) struct Turn {
    sandbox: Sandbox,
    operation: Operation,
    /// Held to the end.
    _lock: SandboxLock,
    /// As it was at the beginning.
    pub(crate) row: SandboxRow,
    pub(crate) handle: Arc<dyn SandboxHandle>,
    next: State,
}

impl Sandbox {
    /// Takes the lock, finishes what a dead process left, checks that the verb is allowed, and writes what is about to be done.
    pub(crate) async fn begin(&self, operation: Operation) -> Result<Turn> {
        let runtime = self.runtime();
        let verb = operation.verb().unwrap_or(Verb::Use);
        let mut lock = SandboxLock::take(runtime.home(), self.id(), operation.name(), runtime.config().lock_wait).await?;
        let Some(mut row) = runtime.ledger().sandbox(self.id())? else {
            lock.remove();
            return Err(gone(self.id()));
        };
        if row.operation.is_some() || row.boot != runtime.ledger().boot() {
            // Nobody works on it, or the lock would not be ours.
            lock = runtime.settle(&row, lock).await?.ok_or_else(|| gone(self.id()))?;
            row = runtime.row(self.id())?;
        }
        let handle = self.handle_of(&row).await?;
        if verb.check(row.state).is_err() && matches!(row.state, State::Running | State::Paused) {
            // What it is may not be what it was: a crash is noticed by whoever looks first. What may be done to a crashed one would end one that
            // is merely slow.
            self.correct(&mut row, settled(handle.as_ref()).await)?;
        }
        let next = verb.check(row.state).map_err(|error| error.with("id", self.id()))?;
        runtime.ledger().begin(self.id(), operation, runtime.me())?;
        fault::point(match operation {
            Operation::Checkpoint => "checkpoint.row",
            Operation::Restore => "restore.row",
            Operation::Stop => "stop.row",
            Operation::Start => "start.row",
            Operation::Pause => "pause.row",
            Operation::Resume => "resume.row",
            Operation::Provision | Operation::Destroy => "",
        });
        Ok(Turn { sandbox: self.clone(), operation, _lock: lock, row, handle, next })
    }

    /// Takes what is true into the row, where it is not what the row says, and writes it, unless that is in doubt: an agent that was silent for a
    /// moment may answer whoever asks next. Only under the lock.
    pub(crate) fn correct(&self, row: &mut SandboxRow, status: SandboxStatus) -> Result<()> {
        if status.state != row.state && matches!(status.state, State::Running | State::Paused | State::Crashed) {
            if status.certain {
                self.runtime().ledger().correct(self.id(), status.state, status.reason.as_deref())?;
            }
            row.state = status.state;
            row.reason = status.reason;
        }
        Ok(())
    }
}

impl Turn {
    /// Writes the outcome: the next state, or, after a failure, what is true now.
    pub(crate) async fn end<T>(self, outcome: Result<T>) -> Result<T> {
        let runtime = self.sandbox.runtime();
        match outcome {
            Ok(value) => {
                if self.operation == Operation::Restore {
                    // A restore succeeds when the new one runs, whether or not all of the old one could be removed.
                    let row = runtime.row(self.sandbox.id())?;
                    if let Err(error) = runtime.give_back(&row, self.operation).await {
                        tracing::warn!(id = %row.id, error = error.chain(), "what was there before a restore could not be removed yet");
                    }
                }
                let revision = runtime.ledger().finish(self.sandbox.id(), self.next, None)?;
                self.sandbox.keep_handle(revision, &self.handle);
                Ok(value)
            }
            Err(error) => {
                let mut row = runtime.row(self.sandbox.id())?;
                // A provider that fails has undone what it did; this is for one that could not.
                let undone = runtime.give_back(&row, self.operation).await;
                if let Err(error) = undone {
                    tracing::warn!(id = %row.id, error = error.chain(), "a verb that failed left something behind");
                }
                if matches!(row.state, State::Running | State::Paused) {
                    let status = self.handle.status().await;
                    if status.certain && status.state != State::Stopped {
                        (row.state, row.reason) = (status.state, status.reason);
                    }
                }
                runtime.ledger().finish(self.sandbox.id(), row.state, row.reason.as_deref())?;
                Err(error)
            }
        }
    }
}
