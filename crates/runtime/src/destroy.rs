//! Taking sandboxes down.

use sandbar_core::{Result, State};
use serde_json::Value;

use crate::{
    Runtime, Sandbox, fault,
    ledger::{Age, Operation, SandboxRow},
    lock::SandboxLock,
};

impl Sandbox {
    pub(crate) async fn destroy_now(&self) -> Result<()> {
        let runtime = self.runtime();
        let lock = SandboxLock::take(runtime.home(), self.id(), "destroy", runtime.config().lock_wait).await?;
        match runtime.ledger().sandbox(self.id())? {
            Some(row) => runtime.take_down(self, &row, lock).await,
            None => {
                lock.remove();
                Ok(())
            }
        }
    }
}

impl Runtime {
    /// Destroys under the lock, from whatever state, also one that somebody died in. The row goes last.
    pub(crate) async fn take_down(&self, sandbox: &Sandbox, row: &SandboxRow, lock: SandboxLock) -> Result<()> {
        self.ledger().begin(&row.id, Operation::Destroy, self.me())?;
        fault::point("destroy.row");
        match self.release(sandbox, row).await {
            Ok(()) => {
                self.ledger().delete_sandbox(&row.id)?;
                self.forget_secrets(&row.spec)?;
                lock.remove();
                fault::point("destroy.finished");
                if row.base.is_some() {
                    self.remove_idle_checkpoints().await?;
                }
                Ok(())
            }
            Err(error) => {
                self.ledger().note_attempt(&row.id, &format!("could not be removed: {}", error.chain()))?;
                Err(error)
            }
        }
    }

    async fn release(&self, sandbox: &Sandbox, row: &SandboxRow) -> Result<()> {
        self.end_keeper(&row.id).await?;
        self.local_ports().close_all(&row.id).await;
        self.local_egress().close(&row.id).await;
        if row.boot != self.ledger().boot() {
            self.ledger().notice_reboot(&row.id)?;
        }
        // Without a record there is nothing to attach to: what was made so far is among the resources.
        let destroyed = match (row.state, &row.record) {
            (State::Provisioning, _) | (_, Value::Null) => Ok(()),
            _ => match sandbox.handle_of(row).await {
                Ok(handle) => handle.destroy().await,
                Err(error) => Err(error),
            },
        };
        fault::point("destroy.provider");
        if let Err(error) = &destroyed {
            tracing::debug!(id = %row.id, error = error.chain(), "the provider could not destroy; its resources are reclaimed one by one");
        }
        if destroyed.is_err() && self.ledger().resources(&row.id, Age::Any)?.is_empty() {
            return destroyed;
        }
        self.reclaim(row, Age::Any).await?;
        self.discard_unfinished_checkpoints(row).await?;
        self.remove_folder(&row.provider, &row.id, self.home().sandbox(&row.id)).await?;
        fault::point("destroy.folder");
        Ok(())
    }
}
