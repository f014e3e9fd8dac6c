use std::{collections::BTreeSet, str::FromStr};

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use sandbar_core::{CheckpointId, CheckpointKind, Error, ErrorKind, Result, RootSource, SandboxId, SandboxSpec, SavedCheckpoint};
use serde_json::Value;

use super::{
    Ledger,
    sandbox_row::{json, only, optional_text, text, to_json},
    store::Refusal,
};
use crate::clock;

/// Where a checkpoint is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckpointState {
    /// Its folder is being filled, under the lock of its sandbox.
    Saving,
    /// It is there.
    Ready,
    /// Its folder is being removed.
    Removing,
}

impl CheckpointState {
    const fn name(self) -> &'static str {
        match self {
            Self::Saving => "saving",
            Self::Ready => "ready",
            Self::Removing => "removing",
        }
    }
}

impl FromStr for CheckpointState {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = [Self::Saving, Self::Ready, Self::Removing].into_iter().find(|state| state.name() == text);
        known.ok_or_else(|| Error::new(ErrorKind::Corrupt, "ledger", "unknown state of a checkpoint").with("value", text))
    }
}

/// Everything that is known of one checkpoint.
#[derive(Debug, Clone)]
pub(crate) struct CheckpointRow {
    pub(crate) id: CheckpointId,
    pub(crate) name: Option<String>,
    /// The sandbox it was made of, which may be gone.
    pub(crate) sandbox: SandboxId,
    pub(crate) provider: String,
    pub(crate) kind: CheckpointKind,
    pub(crate) image: String,
    /// The root file system of the sandbox, with the layers below this one.
    pub(crate) root: RootSource,
    pub(crate) spec: SandboxSpec,
    /// The checkpoint whose layer lies below this one.
    pub(crate) parent: Option<CheckpointId>,
    pub(crate) bytes: u64,
    pub(crate) files: u64,
    /// The provider's.
    pub(crate) record: Value,
    pub(crate) state: CheckpointState,
    /// Nobody asked for it: made on the way to a fork, removed with the last that needs it.
    pub(crate) implicit: bool,
    pub(crate) created_ms: u64,
    /// The key that its sandbox was made with.
    pub(crate) key: Option<i64>,
}

const COLUMNS: &str =
    "id, name, sandbox, provider, kind, image, root, spec, parent, bytes, files, record, state, implicit, created_ms, key";

/// What builds on a checkpoint `?1`.
const REFERENCES: &str = "
    SELECT id FROM checkpoints WHERE parent = ?1 UNION ALL
    SELECT id FROM sandboxes WHERE base = ?1 OR pending_base = ?1 ORDER BY id LIMIT 10";

impl CheckpointRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: text(row, 0)?,
            name: row.get(1)?,
            sandbox: text(row, 2)?,
            provider: row.get(3)?,
            kind: if row.get_ref(4)?.as_str()? == kind_name(CheckpointKind::Memory) {
                CheckpointKind::Memory
            } else {
                CheckpointKind::Disk
            },
            image: row.get(5)?,
            root: json(row, 6)?,
            spec: json(row, 7)?,
            parent: optional_text(row, 8)?,
            bytes: row.get(9)?,
            files: row.get(10)?,
            record: json(row, 11)?,
            state: text(row, 12)?,
            implicit: row.get(13)?,
            created_ms: row.get(14)?,
            key: row.get(15)?,
        })
    }
}

impl Ledger {
    /// Writes the first row of a checkpoint, in state `Saving`.
    ///
    /// # Errors
    /// `AlreadyExists` when the name, or the id, is taken.
    pub(crate) fn insert_checkpoint(&self, row: &CheckpointRow) -> Result<()> {
        self.write(|transaction| {
            if let Some(name) = &row.name {
                let sql = "SELECT id FROM checkpoints WHERE name = ?1";
                let holder = transaction.prepare_cached(sql)?.query_row([name], |row| row.get::<_, String>(0)).optional()?;
                if let Some(id) = holder {
                    let error = Error::new(ErrorKind::AlreadyExists, "checkpoint", "the name is taken");
                    return Err(error.with("name", name).with("by", id).into());
                }
            }
            let sql = "SELECT 1 FROM checkpoints WHERE id = ?1";
            if transaction.prepare_cached(sql)?.exists([row.id.as_str()])? {
                return Err(Error::new(ErrorKind::AlreadyExists, "checkpoint", "there is a checkpoint of this id").with("id", &row.id).into());
            }
            let sql = "
                INSERT INTO checkpoints (id, name, sandbox, provider, kind, image, root, spec, parent, state, implicit, created_ms, key)
                VALUES (:id, :name, :sandbox, :provider, :kind, :image, :root, :spec, :parent, :state, :implicit, :created_ms, :key)";
            transaction.prepare_cached(sql)?.execute(named_params! {
                ":id": row.id.as_str(), ":name": row.name, ":sandbox": row.sandbox.as_str(), ":provider": row.provider,
                ":kind": kind_name(row.kind), ":image": row.image, ":root": to_json(&row.root)?, ":spec": to_json(&row.spec)?,
                ":parent": row.parent.as_ref().map(CheckpointId::as_str), ":state": CheckpointState::Saving.name(), ":implicit": row.implicit,
                ":created_ms": clock::now_ms(), ":key": row.key,
            })?;
            Ok(())
        })
    }

    /// The checkpoint is in its place.
    pub(crate) fn finish_checkpoint(&self, id: &CheckpointId, saved: &SavedCheckpoint) -> Result<()> {
        self.write(|transaction| {
            let sql = "UPDATE checkpoints SET state = 'ready', bytes = ?2, files = ?3, record = ?4 WHERE id = ?1";
            transaction.prepare_cached(sql)?.execute(params![id.as_str(), saved.bytes, saved.files, to_json(&saved.record)?])?;
            Ok(())
        })
    }

    /// Takes a checkpoint out of use, so that its folder can be removed. With `implicit_only`, only one that nobody asked for; tells whether
    /// it was taken.
    ///
    /// # Errors
    /// `Conflict`, naming them, when others build on it.
    pub(crate) fn begin_checkpoint_removal(&self, id: &CheckpointId, implicit_only: bool) -> Result<bool> {
        self.write(|transaction| {
            let others: Vec<String> =
                transaction.prepare_cached(REFERENCES)?.query_map([id.as_str()], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            if !others.is_empty() {
                if implicit_only {
                    return Ok(false);
                }
                return Err(Error::new(ErrorKind::Conflict, "checkpoint rm", "others build on this checkpoint")
                    .with("id", id)
                    .with("others", others.join(" "))
                    .with_hint("remove those first")
                    .into());
            }
            let sql = "UPDATE checkpoints SET state = 'removing', name = NULL WHERE id = ?1 AND state <> 'saving' AND implicit >= ?2";
            Ok(transaction.prepare_cached(sql)?.execute(params![id.as_str(), implicit_only])? == 1)
        })
    }

    /// Removes the row. The folder is gone.
    pub(crate) fn delete_checkpoint(&self, id: &CheckpointId) -> Result<()> {
        self.write(|transaction| {
            transaction.prepare_cached("DELETE FROM checkpoints WHERE id = ?1")?.execute([id.as_str()])?;
            Ok(())
        })
    }

    /// One checkpoint, in whatever state.
    pub(crate) fn checkpoint(&self, id: &CheckpointId) -> Result<Option<CheckpointRow>> {
        self.read(|connection| {
            let sql = format!("SELECT {COLUMNS} FROM checkpoints WHERE id = ?1");
            connection.prepare_cached(&sql)?.query_row([id.as_str()], CheckpointRow::read).optional()
        })
    }

    /// At most `limit` of the checkpoints that are there, the oldest first, after the one of this moment and id; those of a sandbox, and of a key, or all.
    pub(crate) fn checkpoints_after(
        &self,
        of: Option<&SandboxId>,
        after: Option<(u64, &str)>,
        limit: usize,
        key: Option<i64>,
    ) -> Result<Vec<CheckpointRow>> {
        let (moment, id) = after.unwrap_or((0, ""));
        // Nothing is later, and nothing more, than what a column holds.
        let [moment, limit] = [moment, limit as u64].map(|number| i64::try_from(number).unwrap_or(i64::MAX));
        self.read(|connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM checkpoints WHERE state = 'ready' AND (?1 IS NULL OR sandbox = ?1) AND (?2 IS NULL OR key = ?2)
                 AND (created_ms, id) > (?3, ?4) ORDER BY created_ms, id LIMIT ?5"
            );
            let wanted = params![of.map(SandboxId::as_str), key, moment, id, limit];
            connection.prepare_cached(&sql)?.query_map(wanted, CheckpointRow::read)?.collect()
        })
    }

    /// The checkpoints that are being saved or removed, or were when somebody died; none before those that build on it.
    pub(crate) fn unfinished_checkpoints(&self) -> Result<Vec<CheckpointRow>> {
        let mut rows: Vec<CheckpointRow> = self.read(|connection| {
            let sql = format!("SELECT {COLUMNS} FROM checkpoints WHERE state <> 'ready'");
            connection.prepare_cached(&sql)?.query_map([], CheckpointRow::read)?.collect()
        })?;
        let mut ordered = Vec::with_capacity(rows.len());
        while !rows.is_empty() {
            let parents: BTreeSet<_> = rows.iter().filter_map(|row| row.parent.clone()).collect();
            let (above, below): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| !parents.contains(&row.id));
            if above.is_empty() {
                // A circle, which a sound ledger does not have.
                ordered.extend(below);
                break;
            }
            ordered.extend(above);
            rows = below;
        }
        Ok(ordered)
    }

    /// Checkpoints that nobody asked for and nothing builds on.
    pub(crate) fn idle_implicit_checkpoints(&self) -> Result<Vec<CheckpointId>> {
        self.read(|connection| {
            let sql = "
                SELECT id FROM checkpoints AS own WHERE implicit AND state = 'ready'
                    AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE parent = own.id)
                    AND NOT EXISTS (SELECT 1 FROM sandboxes WHERE base = own.id OR pending_base = own.id)";
            connection.prepare_cached(sql)?.query_map([], |row| text(row, 0))?.collect()
        })
    }

    /// The checkpoint that a user means, of those of a key or of all: by id, else by name, else by a prefix of an id that no other id has.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` with the matches when there are several.
    pub(crate) fn find_checkpoint(&self, reference: &str, key: Option<i64>) -> Result<CheckpointRow> {
        let full = if reference.starts_with("cp-") { reference.to_owned() } else { format!("cp-{reference}") };
        let mut rows = self.read(|connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM checkpoints WHERE name = ?1 AND state = 'ready' AND (?3 IS NULL OR key = ?3)
                 UNION ALL SELECT * FROM (
                    SELECT {COLUMNS} FROM checkpoints WHERE id >= ?2 AND id < ?2 || '~' AND state = 'ready' AND (?3 IS NULL OR key = ?3)
                        ORDER BY id LIMIT 9)"
            );
            connection
                .prepare_cached(&sql)?
                .query_map(params![reference, full, key], CheckpointRow::read)?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        if let Some(index) = rows.iter().position(|row| row.id.as_str() == reference || row.name.as_deref() == Some(reference)) {
            return Ok(rows.swap_remove(index));
        }
        if reference.is_empty() || reference == "cp-" {
            rows.clear();
        }
        let names: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
        only(rows, &names, "checkpoint", reference)
    }
}

/// Refuses a checkpoint that is not there, or not any more.
pub(super) fn require_ready(connection: &Connection, id: &CheckpointId) -> Result<(), Refusal> {
    let sql = "SELECT EXISTS (SELECT 1 FROM checkpoints WHERE id = ?1 AND state = 'ready')";
    if connection.prepare_cached(sql)?.query_row([id.as_str()], |row| row.get(0))? {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotFound, "checkpoint", "there is no such checkpoint any more").with("id", id).into())
}

const fn kind_name(kind: CheckpointKind) -> &'static str {
    match kind {
        CheckpointKind::Disk => "disk",
        CheckpointKind::Memory => "memory",
    }
}
