use std::sync::Arc;

use rusqlite::params;
use sandbar_core::{Error, ErrorKind, Journal, Resource, Result, SandboxId, State};
use serde_json::Value;

use super::{Ledger, sandbox_row::to_json};
use crate::fault;

/// The ledger's face to the provider of one sandbox.
pub(crate) struct LedgerJournal {
    ledger: Arc<Ledger>,
    id: SandboxId,
}

impl LedgerJournal {
    pub(crate) fn new(ledger: Arc<Ledger>, id: SandboxId) -> Self {
        Self { ledger, id }
    }
}

impl Journal for LedgerJournal {
    fn intend(&self, resource: &Resource) -> Result<()> {
        self.ledger.intend(&self.id, resource)
    }

    fn forget(&self, resource: &Resource) -> Result<()> {
        self.ledger.forget(&self.id, resource)
    }

    /// A restore's new root takes the old one's place in the same step: after it, the sandbox is the new one.
    fn commit(&self, record: &Value, state: State) -> Result<()> {
        let record = to_json(record)?;
        self.ledger.write(|transaction| {
            // A sandbox that is being destroyed stays so, whatever its provider says on the way.
            let sql = "
                UPDATE sandboxes SET record = ?2, state = CASE state WHEN 'destroying' THEN state ELSE ?3 END, reason = NULL,
                    revision = revision + 1, committed = operation IS NOT NULL, boot = ?4, base = coalesce(pending_base, base),
                    root = coalesce(pending_root, root), pending_base = NULL, pending_root = NULL WHERE id = ?1";
            let changed = transaction.prepare_cached(sql)?.execute(params![self.id.as_str(), record, state.name(), self.ledger.boot()])?;
            if changed == 0 {
                let error = Error::new(ErrorKind::NotFound, "ledger", "the sandbox has no row any more");
                return Err(error.with("id", &self.id).into());
            }
            Ok(())
        })
    }

    fn step(&self, name: &'static str) {
        fault::point(name);
    }
}
