use rusqlite::{OptionalExtension, Row, params};
use sandbar_core::{Result, SandboxId};

use super::{Ledger, sandbox_row::text};

/// How long a creation is remembered.
const MEMORY_MS: u64 = 24 * 60 * 60 * 1000;
/// How many of each key are remembered; the oldest go first, so that nobody makes another's be forgotten.
const MOST: u64 = 10_000;

/// A creation that is to be done once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CreationRow {
    /// The digest of what was asked for.
    pub(crate) request: [u8; 32],
    /// The sandbox, which may not be there yet, and not any more.
    pub(crate) sandbox: SandboxId,
    /// Whether it has come to its end.
    pub(crate) made: bool,
}

impl Ledger {
    /// What is remembered by this word, of this key, and `false`; or, from now on, what is `wanted`, and `true`.
    pub(crate) fn claim_creation(&self, key: i64, word: &str, wanted: &CreationRow, now_ms: u64) -> Result<(CreationRow, bool)> {
        self.write(|transaction| {
            let oldest = now_ms.saturating_sub(MEMORY_MS);
            let read = |row: &Row<'_>| Ok(CreationRow { request: row.get(0)?, sandbox: text(row, 1)?, made: row.get(2)? });
            let sql = "SELECT request, sandbox, made FROM creations WHERE key = ?1 AND word = ?2 AND time_ms >= ?3";
            if let Some(known) = transaction.prepare_cached(sql)?.query_row(params![key, word, oldest], read).optional()? {
                return Ok((known, false));
            }
            let sql = "
                DELETE FROM creations
                    WHERE time_ms < ?1
                        OR key = ?3 AND time_ms <= (SELECT time_ms FROM creations WHERE key = ?3 ORDER BY time_ms DESC LIMIT 1 OFFSET ?2)";
            transaction.prepare_cached(sql)?.execute(params![oldest, MOST - 1, key])?;
            let sql = "INSERT INTO creations (key, word, request, sandbox, made, time_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let row = params![key, word, wanted.request, wanted.sandbox.as_str(), wanted.made, now_ms];
            transaction.prepare_cached(sql)?.execute(row)?;
            Ok((wanted.clone(), true))
        })
    }

    /// Writes that a sandbox was made: that is remembered.
    pub(crate) fn finish_creation(&self, key: i64, word: &str) -> Result<()> {
        self.write(|transaction| {
            let sql = "UPDATE creations SET made = 1 WHERE key = ?1 AND word = ?2";
            transaction.prepare_cached(sql)?.execute(params![key, word])?;
            Ok(())
        })
    }

    /// Forgets a creation that has failed, so that it may be tried again; where there is a sandbox of its id, or one is being made, only if `whatever_is_there`.
    pub(crate) fn forget_creation(&self, key: i64, word: &str, whatever_is_there: bool) -> Result<()> {
        self.write(|transaction| {
            let sql = "
                DELETE FROM creations
                    WHERE key = ?1 AND word = ?2 AND made = 0 AND (?3 OR sandbox NOT IN (SELECT id FROM sandboxes))";
            transaction.prepare_cached(sql)?.execute(params![key, word, whatever_is_there])?;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(number: u8) -> CreationRow {
        CreationRow { request: [number; 32], sandbox: SandboxId::from_random([number; 8]), made: false }
    }

    #[test]
    fn a_word_is_one_creation_for_a_day_and_for_each_key() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&home.path().join("ledger.db"), "boot").unwrap();
        let now = 10 * MEMORY_MS;
        assert_eq!(ledger.claim_creation(0, "w", &wanted(1), now).unwrap().0, wanted(1));
        assert_eq!(ledger.claim_creation(0, "w", &wanted(2), now + 1).unwrap().0, wanted(1));
        assert_eq!(ledger.claim_creation(7, "w", &wanted(2), now + 1).unwrap().0, wanted(2));
        ledger.finish_creation(0, "w").unwrap();
        ledger.forget_creation(7, "w", false).unwrap();
        ledger.forget_creation(0, "w", true).unwrap();
        let made = CreationRow { made: true, ..wanted(1) };
        assert_eq!(ledger.claim_creation(0, "w", &wanted(3), now + MEMORY_MS).unwrap().0, made);
        assert_eq!(ledger.claim_creation(7, "w", &wanted(3), now + 2).unwrap().0, wanted(3));
        assert_eq!(ledger.claim_creation(0, "w", &wanted(4), now + MEMORY_MS + 1).unwrap().0, wanted(4));
    }

    #[test]
    fn the_oldest_are_forgotten_where_there_are_many() {
        let home = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&home.path().join("ledger.db"), "boot").unwrap();
        let many = format!(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {MOST})
             INSERT INTO creations SELECT 0, 'word-' || n, zeroblob(32), 'sb-bbbbbbbbbbbb', 1, n FROM numbers"
        );
        ledger.write(|transaction| Ok(transaction.execute_batch(&many)?)).unwrap();
        ledger.claim_creation(0, "new", &wanted(1), MOST + 1).unwrap();
        let count: u64 = ledger.read(|connection| connection.query_row("SELECT count(*) FROM creations", [], |row| row.get(0))).unwrap();
        assert_eq!(count, MOST);
        // Another key's are its own.
        ledger.claim_creation(7, "new", &wanted(1), MOST + 1).unwrap();
        ledger.claim_creation(7, "newer", &wanted(1), MOST + 1).unwrap();
        let count: u64 = ledger.read(|connection| connection.query_row("SELECT count(*) FROM creations", [], |row| row.get(0))).unwrap();
        assert_eq!(count, MOST + 2);
        assert_eq!(ledger.claim_creation(0, "word-2", &wanted(2), MOST + 1).unwrap().0.request, [0; 32]);
        assert_eq!(ledger.claim_creation(0, "word-1", &wanted(2), MOST + 1).unwrap().0, wanted(2));
    }
}
