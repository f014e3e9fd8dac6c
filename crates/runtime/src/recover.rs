//! What dead processes left, finished or undone.

use sandbar_core::{Result, SandboxId, State};

use crate::{
    Runtime, Sandbox, clock,
    ledger::{Age, Attention, Operation, SandboxRow},
    lock::SandboxLock,
};

/// Commands do not try again within this time what could not be recovered; `gc` does.
const PATIENCE_MS: u64 = 30_000;

/// What became of a row that needed somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recovered {
    /// Somebody works on it, or nothing was wrong.
    Untouched,
    /// It goes on to be, in a state that is true.
    Settled,
    /// It is gone.
    Removed,
}

impl Runtime {
    /// On the way of every command: a query of an index, and work only where somebody died. What fails here is logged and left to `gc`.
    pub(crate) async fn recover_lightly(&self) {
        let rows = match self.ledger().attention() {
            Ok(rows) => rows,
            Err(error) => return tracing::warn!(error = error.chain(), "cannot look for what needs recovery"),
        };
        let now = clock::now_ms();
        for row in rows {
            let tried = row.attempted_ms.is_some_and(|attempted| attempted + PATIENCE_MS > now);
            if tried || !self.needs_recovery(&row) {
                continue;
            }
            match self.recover(&row.id).await {
                Ok(outcome) => tracing::debug!(id = %row.id, ?outcome, "recovered"),
                Err(error) => tracing::warn!(id = %row.id, error = error.chain(), "cannot recover the sandbox; sandbar gc tries again"),
            }
        }
        if let Err(error) = self.restart_keepers().await {
            tracing::warn!(error = error.chain(), "cannot restart a keeper");
        }
    }

    fn needs_recovery(&self, row: &Attention) -> bool {
        let boot = self.ledger().boot();
        let died = |process: &crate::process_identity::ProcessIdentity| !process.is_alive(boot);
        row.boot != boot
            || row.operation.is_some() && row.operator.as_ref().is_none_or(died)
            || row.owner.as_ref().is_some_and(died)
            || row.expires_ms.is_some_and(|expires| expires <= clock::now_ms())
    }

    /// Looks at one sandbox, unless somebody works on it.
    pub(crate) async fn recover(&self, id: &SandboxId) -> Result<Recovered> {
        let Some(lock) = SandboxLock::try_take(self.home(), id, "recover")? else { return Ok(Recovered::Untouched) };
        let Some(row) = self.ledger().sandbox(id)? else {
            lock.remove();
            return Ok(Recovered::Removed);
        };
        let attempt = async {
            let wrong = row.operation.is_some() || row.boot != self.ledger().boot();
            let Some(lock) = self.settle(&row, lock).await? else { return Ok(Recovered::Removed) };
            let owner_died = row.owner.as_ref().is_some_and(|owner| !owner.is_alive(self.ledger().boot()));
            let expired = row.expires_ms.is_some_and(|expires| expires <= clock::now_ms());
            if owner_died || expired {
                let row = self.row(id)?;
                self.take_down(&Sandbox::of(self.clone(), &row), &row, lock).await?;
                return Ok(Recovered::Removed);
            }
            Ok(if wrong { Recovered::Settled } else { Recovered::Untouched })
        };
        let outcome: Result<Recovered> = attempt.await;
        if let Err(error) = &outcome {
            // The row may be gone, and the disk may be full: neither makes it worse.
            let _ = self.ledger().note_attempt(id, &format!("recovery failed: {}", error.chain()));
        }
        outcome
    }

    /// Brings a row without an operator to a state that is true. Gives the lock back, unless the sandbox is gone.
    ///
    /// | interrupted | the provider had not committed | it had |
    /// |---|---|---|
    /// | provision | everything is removed | it runs |
    /// | destroy | destroyed | destroyed |
    /// | start | what was taken is given back | it runs |
    /// | restore | what was taken is given back, the old one goes on | the old one's things are given back, the new one runs |
    /// | stop | runs on if it still does, else stopped | stopped |
    /// | pause, resume | what is true is written | the same |
    /// | checkpoint | thawed, what was saved is removed | the same |
    pub(crate) async fn settle(&self, row: &SandboxRow, lock: SandboxLock) -> Result<Option<SandboxLock>> {
        let mut row = row.clone();
        if row.boot != self.ledger().boot() {
            self.ledger().notice_reboot(&row.id)?;
            row = self.row(&row.id)?;
        }
        let sandbox = Sandbox::of(self.clone(), &row);
        let Some(operation) = row.operation else { return Ok(Some(lock)) };
        match operation {
            Operation::Provision if row.state == State::Provisioning => {
                self.undo_provision(&row, lock).await?;
                return Ok(None);
            }
            Operation::Destroy => {
                self.take_down(&sandbox, &row, lock).await?;
                return Ok(None);
            }
            Operation::Start | Operation::Restore => self.give_back(&row, operation).await?,
            Operation::Checkpoint => {
                self.discard_unfinished_checkpoints(&row).await?;
            }
            Operation::Provision | Operation::Stop | Operation::Pause | Operation::Resume => {}
        }
        let (state, reason) = self.true_state(&sandbox, &row, operation).await?;
        self.ledger().finish(&row.id, state, reason.as_deref())?;
        Ok(Some(lock))
    }

    /// Gives back what an operation that came to no good end took, or, if it had taken effect, what it put aside.
    pub(crate) async fn give_back(&self, row: &SandboxRow, operation: Operation) -> Result<()> {
        match (operation, row.committed) {
            (_, false) => self.reclaim(row, Age::Fresh).await,
            // A restore makes everything anew, so what it did not name again belongs to the generation before.
            (Operation::Restore, true) => self.reclaim(row, Age::Old).await,
            // Any other goes on with what there was: a start does not name the layer's folder again.
            (_, true) => Ok(()),
        }
    }

    async fn true_state(&self, sandbox: &Sandbox, row: &SandboxRow, operation: Operation) -> Result<(State, Option<String>)> {
        if !matches!(row.state, State::Running | State::Paused) {
            return Ok((row.state, row.reason.clone()));
        }
        let handle = sandbox.handle_of(row).await?;
        let mut status = handle.status().await;
        if operation == Operation::Checkpoint && status.state == State::Paused && row.state == State::Running {
            handle.resume().await?;
            status = handle.status().await;
        }
        if operation == Operation::Stop && status.state == State::Crashed {
            // Half way down: the rest is ended, so that the layer can be used again.
            handle.stop().await?;
            return Ok((State::Stopped, None));
        }
        Ok((status.state, status.reason))
    }
}
