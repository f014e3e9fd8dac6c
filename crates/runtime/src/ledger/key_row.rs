use rusqlite::{Connection, OptionalExtension, Row, params};
use sandbar_core::{Error, ErrorKind, Result};

use super::{Ledger, sandbox_row::text, store::Refusal};
use crate::key::{Holder, KeySummary};

impl Ledger {
    /// Writes a key, by the digest of its secret.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken.
    pub(crate) fn insert_key(&self, key: &KeySummary, digest: &[u8; 32]) -> Result<()> {
        self.write(|transaction| {
            let sql = "SELECT EXISTS (SELECT 1 FROM keys WHERE name = ?1)";
            if transaction.prepare_cached(sql)?.query_row([&key.name], |row| row.get(0))? {
                return Err(Error::new(ErrorKind::AlreadyExists, "key", "the name is taken").with("name", &key.name).into());
            }
            let sql = "INSERT INTO keys (name, digest, scope, max_sandboxes, created_ms, expires_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
            let row = params![key.name, digest, key.scope.name(), key.max_sandboxes, key.created_ms, key.expires_ms];
            transaction.prepare_cached(sql)?.execute(row)?;
            Ok(())
        })
    }

    /// All keys, the oldest first.
    pub(crate) fn keys(&self) -> Result<Vec<KeySummary>> {
        self.read(|connection| {
            let sql = "
                SELECT name, scope, max_sandboxes, created_ms, expires_ms, (SELECT count(*) FROM sandboxes WHERE key = keys.id)
                    FROM keys ORDER BY id";
            let read = |row: &Row<'_>| {
                Ok(KeySummary {
                    name: row.get(0)?,
                    scope: text(row, 1)?,
                    max_sandboxes: row.get(2)?,
                    created_ms: row.get(3)?,
                    expires_ms: row.get(4)?,
                    sandboxes: row.get(5)?,
                })
            };
            connection.prepare_cached(sql)?.query_map([], read)?.collect()
        })
    }

    /// Who has the secret of this digest, unless the key has expired.
    pub(crate) fn key_of(&self, digest: &[u8; 32], now_ms: u64) -> Result<Option<Holder>> {
        self.read(|connection| {
            let sql = "SELECT id, name, scope FROM keys WHERE digest = ?1 AND (expires_ms IS NULL OR expires_ms > ?2)";
            let read = |row: &Row<'_>| Ok(Holder { key: row.get(0)?, name: row.get(1)?, scope: text(row, 2)? });
            connection.prepare_cached(sql)?.query_row(params![digest, now_ms], read).optional()
        })
    }

    /// Removes a key.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn delete_key(&self, name: &str) -> Result<()> {
        self.write(|transaction| match transaction.prepare_cached("DELETE FROM keys WHERE name = ?1")?.execute([name])? {
            0 => Err(Error::new(ErrorKind::NotFound, "key", "there is no such key").with("name", name).into()),
            _ => Ok(()),
        })
    }
}

/// Refuses a sandbox more than a key allows.
pub(super) fn require_room(connection: &Connection, key: i64) -> Result<(), Refusal> {
    let sql = "SELECT name, max_sandboxes, (SELECT count(*) FROM sandboxes WHERE key = keys.id) FROM keys WHERE id = ?1";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let found: Option<(String, Option<u32>, u32)> = connection.prepare_cached(sql)?.query_row([key], read).optional()?;
    match found {
        None => Err(Error::new(ErrorKind::PermissionDenied, "create", "the key was removed").into()),
        Some((name, Some(most), there)) if there >= most => {
            let error = Error::new(ErrorKind::ResourceExhausted, "create", "the key has as many sandboxes as it may");
            Err(error.with("key", name).with("sandboxes", there).with_hint("remove one that is not needed").into())
        }
        Some(_) => Ok(()),
    }
}
