use std::sync::Arc;

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

/// Children on their way from clone to exec.
///
/// Until it executes, a child holds a copy of every descriptor of the agent, also of a file that a thread is writing at that moment. A program
/// that is executed while anybody has it open for writing fails with `ETXTBSY`. So a file that was put is reported only when the children
/// that were on their way have arrived.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forks(Arc<RwLock<()>>);

impl Forks {
    /// Held by a child from before its clone until it has executed, or failed to.
    pub(crate) async fn begin(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.0).read_owned().await
    }

    /// Waits, on a thread that may block, until no child holds what this process has closed before.
    pub(crate) fn settle(&self) {
        drop(self.0.blocking_write());
    }
}
