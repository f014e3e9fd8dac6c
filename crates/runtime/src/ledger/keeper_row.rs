use rusqlite::{OptionalExtension, params};
use sandbar_core::{Result, SandboxId};

use super::{
    Ledger,
    sandbox_row::{identity, text},
};
use crate::process_identity::ProcessIdentity;

impl Ledger {
    /// Writes who keeps a sandbox.
    pub(crate) fn set_keeper(&self, id: &SandboxId, keeper: &ProcessIdentity) -> Result<()> {
        self.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO keepers (sandbox, pid, start, boot) SELECT id, ?2, ?3, ?4 FROM sandboxes WHERE id = ?1";
            transaction.prepare_cached(sql)?.execute(params![id.as_str(), keeper.pid, keeper.start_time, keeper.boot])?;
            Ok(())
        })
    }

    /// Forgets a keeper, if it is this one.
    pub(crate) fn delete_keeper(&self, id: &SandboxId, keeper: &ProcessIdentity) -> Result<()> {
        self.write(|transaction| {
            let sql = "DELETE FROM keepers WHERE sandbox = ?1 AND pid = ?2 AND start = ?3";
            transaction.prepare_cached(sql)?.execute(params![id.as_str(), keeper.pid, keeper.start_time])?;
            Ok(())
        })
    }

    /// Who keeps a sandbox, or did when it died.
    pub(crate) fn keeper(&self, id: &SandboxId) -> Result<Option<ProcessIdentity>> {
        self.read(|connection| {
            let sql = "SELECT pid, start, boot FROM keepers WHERE sandbox = ?1";
            Ok(connection.prepare_cached(sql)?.query_row([id.as_str()], |row| identity(row, 0)).optional()?.flatten())
        })
    }

    /// Sandboxes that need a keeper, with the one they have or had.
    pub(crate) fn kept(&self) -> Result<Vec<(SandboxId, Option<ProcessIdentity>)>> {
        self.read(|connection| {
            let sql = "
                SELECT id, pid, start, keepers.boot FROM sandboxes LEFT JOIN keepers ON sandbox = id
                WHERE state NOT IN ('provisioning', 'destroying') AND id IN (
                    SELECT sandbox FROM ports WHERE holder_pid IS NULL UNION
                    SELECT id FROM sandboxes WHERE expires_ms IS NOT NULL AND owner_pid IS NULL UNION
                    SELECT id FROM sandboxes WHERE gated = 1 AND owner_pid IS NULL)";
            connection.prepare_cached(sql)?.query_map([], |row| Ok((text(row, 0)?, identity(row, 1)?)))?.collect()
        })
    }
}
