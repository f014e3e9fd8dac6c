use rusqlite::{OptionalExtension, params};
use sandbar_core::Result;

use super::Ledger;
use crate::clock;

impl Ledger {
    /// What a probe said, if this provider was found usable by this user, this program and in this boot, within the last hour. Making a sandbox tries
    /// it anyway, so an outdated answer costs a clear error and a new probe, never a wrong wall.
    pub(crate) fn usable_probe(&self, provider: &str, user: u32, version: &str) -> Result<Option<String>> {
        self.read(|connection| {
            let sql = "SELECT verdict FROM probes WHERE provider = ?1 AND user = ?2 AND boot = ?3 AND version = ?4 AND checked_ms > ?5";
            let since = clock::now_ms().saturating_sub(3_600_000);
            connection.prepare_cached(sql)?.query_row(params![provider, user, self.boot(), version, since], |row| row.get(0)).optional()
        })
    }

    /// Remembers that a provider is usable.
    pub(crate) fn set_probe(&self, provider: &str, user: u32, version: &str, verdict: &str) -> Result<()> {
        self.write(|transaction| {
            let sql = "INSERT OR REPLACE INTO probes VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            transaction.prepare_cached(sql)?.execute(params![provider, user, self.boot(), version, verdict, clock::now_ms()])?;
            Ok(())
        })
    }

    /// Forgets it: the provider failed.
    pub(crate) fn delete_probe(&self, provider: &str) -> Result<()> {
        self.write(|transaction| {
            transaction.prepare_cached("DELETE FROM probes WHERE provider = ?1")?.execute([provider])?;
            Ok(())
        })
    }
}
