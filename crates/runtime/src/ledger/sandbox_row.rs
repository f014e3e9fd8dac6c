use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension, Row, named_params, params, types::Type};
use sandbar_core::{CheckpointId, Error, ErrorKind, IdRange, Lifetime, Network, Result, RootSource, SandboxId, SandboxSpec, State};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Ledger, Operation, store::Refusal};
use crate::{clock, process_identity::ProcessIdentity};

/// Everything that is known of one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct SandboxRow {
    pub(crate) id: SandboxId,
    pub(crate) name: Option<String>,
    pub(crate) provider: String,
    /// As it was asked for, or the default's name.
    pub(crate) image: String,
    pub(crate) state: State,
    /// Why it is in this state, where that is not obvious.
    pub(crate) reason: Option<String>,
    /// Why this provider was chosen.
    pub(crate) choice: String,
    pub(crate) lifetime: Lifetime,
    /// The boot in which its processes were started.
    pub(crate) boot: String,
    pub(crate) created_ms: u64,
    pub(crate) expires_ms: Option<u64>,
    /// Whether the host decides about what leaves it.
    pub(crate) gated: bool,
    /// The process that it ends with.
    pub(crate) owner: Option<ProcessIdentity>,
    /// What is being done to it, or was when somebody died.
    pub(crate) operation: Option<Operation>,
    /// By whom.
    pub(crate) operator: Option<ProcessIdentity>,
    /// Whether the provider has committed since the operation began.
    pub(crate) committed: bool,
    /// Grows with each commit of the provider: an attached handle of an older one must not be used.
    pub(crate) revision: i64,
    pub(crate) ids: Option<IdRange>,
    /// The checkpoint that its layer lies upon.
    pub(crate) base: Option<CheckpointId>,
    pub(crate) spec: SandboxSpec,
    pub(crate) root: RootSource,
    pub(crate) record: Value,
    /// The key that it was made with.
    pub(crate) key: Option<i64>,
}

/// What a sandbox is made of at its beginning.
pub(crate) struct NewSandbox<'a> {
    pub(crate) id: &'a SandboxId,
    pub(crate) name: Option<&'a str>,
    pub(crate) provider: &'a str,
    pub(crate) image: &'a str,
    pub(crate) choice: &'a str,
    pub(crate) lifetime: Lifetime,
    pub(crate) expires_ms: Option<u64>,
    pub(crate) gated: bool,
    pub(crate) base: Option<&'a CheckpointId>,
    pub(crate) spec: &'a SandboxSpec,
    pub(crate) root: &'a RootSource,
    /// The key that it is made with.
    pub(crate) key: Option<i64>,
    /// The first id of all ranges, when it shall have one.
    pub(crate) first_id: Option<u32>,
    /// This process.
    pub(crate) operator: &'a ProcessIdentity,
}

/// A row that may need somebody: cheap to read, to be judged by the reader.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    pub(crate) id: SandboxId,
    pub(crate) boot: String,
    pub(crate) operation: Option<Operation>,
    pub(crate) operator: Option<ProcessIdentity>,
    pub(crate) owner: Option<ProcessIdentity>,
    pub(crate) expires_ms: Option<u64>,
    /// When somebody last tried in vain.
    pub(crate) attempted_ms: Option<u64>,
}

const COLUMNS: &str = "id, name, provider, image, state, reason, choice, lifetime, boot, created_ms, expires_ms, owner_pid, owner_start, \
     owner_boot, operation, operator_pid, operator_start, operator_boot, committed, revision, first_id, base, spec, root, record, gated, key";

pub(super) const ATTENTION: &str = "
    SELECT id, boot, operation, operator_pid, operator_start, operator_boot, owner_pid, owner_start, owner_boot, expires_ms, attempted_ms
        FROM sandboxes WHERE operation IS NOT NULL OR owner_pid IS NOT NULL OR expires_ms IS NOT NULL
    UNION
    SELECT id, boot, operation, operator_pid, operator_start, operator_boot, owner_pid, owner_start, owner_boot, expires_ms, attempted_ms
        FROM sandboxes WHERE boot < ?1
    UNION
    SELECT id, boot, operation, operator_pid, operator_start, operator_boot, owner_pid, owner_start, owner_boot, expires_ms, attempted_ms
        FROM sandboxes WHERE boot > ?1";

/// The ids of a sandbox's range: those of one 16 bit user name space.
const IDS: u32 = 1 << 16;
/// Ids from here on are negative for programs with signed numbers, and systemd has meanings for some below (`UIDS-GIDS.md`).
const IDS_END: u32 = 0x7ffe_0000;

impl Ledger {
    /// Writes the first row of a sandbox, in state `Provisioning`, with the lowest free id range.
    ///
    /// # Errors
    /// `AlreadyExists` when the name, or the id, is taken; `NotFound` when the base is not there any more; `ResourceExhausted` when the key has as many
    /// as it may.
    pub(crate) fn insert_sandbox(&self, new: &NewSandbox<'_>) -> Result<Option<IdRange>> {
        self.write(|transaction| {
            if let Some(name) = new.name {
                refuse_taken(transaction, name)?;
            }
            if transaction.prepare_cached("SELECT 1 FROM sandboxes WHERE id = ?1")?.exists([new.id.as_str()])? {
                return Err(Error::new(ErrorKind::AlreadyExists, "create", "there is a sandbox of this id").with("id", new.id).into());
            }
            if let Some(key) = new.key {
                super::key_row::require_room(transaction, key)?;
            }
            if let Some(base) = new.base {
                super::checkpoint_row::require_ready(transaction, base)?;
            }
            let slot = new.first_id.map(|first| free_slot(transaction, first)).transpose()?;
            let ids = new.first_id.zip(slot).map(|(first, slot)| IdRange { first: first + slot * IDS, count: IDS });
            let owner = (new.lifetime == Lifetime::Owned).then_some(new.operator);
            let sql = "
                INSERT INTO sandboxes (id, name, provider, image, state, choice, lifetime, boot, created_ms, expires_ms, owner_pid, owner_start,
                    owner_boot, operation, operator_pid, operator_start, operator_boot, slot, first_id, base, spec, root, gated, key)
                VALUES (:id, :name, :provider, :image, :state, :choice, :lifetime, :boot, :created_ms, :expires_ms, :owner_pid, :owner_start,
                    :owner_boot, :operation, :operator_pid, :operator_start, :boot, :slot, :first_id, :base, :spec, :root, :gated, :key)";
            transaction.prepare_cached(sql)?.execute(named_params! {
                ":id": new.id.as_str(), ":name": new.name, ":provider": new.provider, ":image": new.image, ":state": State::Provisioning.name(),
                ":choice": new.choice, ":lifetime": lifetime_name(new.lifetime), ":boot": self.boot(), ":created_ms": clock::now_ms(),
                ":expires_ms": new.expires_ms, ":owner_pid": owner.map(|owner| owner.pid), ":owner_start": owner.map(|owner| owner.start_time),
                ":owner_boot": owner.map(|owner| &owner.boot), ":operation": Operation::Provision.name(), ":operator_pid": new.operator.pid,
                ":operator_start": new.operator.start_time, ":slot": slot, ":first_id": ids.map(|ids| ids.first),
                ":base": new.base.map(CheckpointId::as_str), ":spec": to_json(new.spec)?, ":root": to_json(new.root)?, ":gated": new.gated, ":key": new.key,
            })?;
            Ok(ids)
        })
    }

    /// One sandbox.
    pub(crate) fn sandbox(&self, id: &SandboxId) -> Result<Option<SandboxRow>> {
        self.read(|connection| {
            let sql = format!("SELECT {COLUMNS} FROM sandboxes WHERE id = ?1");
            connection.prepare_cached(&sql)?.query_row([id.as_str()], SandboxRow::read).optional()
        })
    }

    /// What every use of a sandbox must know: its state, what is being done to it, and its revision.
    pub(crate) fn standing(&self, id: &SandboxId) -> Result<Option<(State, Option<Operation>, i64)>> {
        self.read(|connection| {
            let sql = "SELECT state, operation, revision FROM sandboxes WHERE id = ?1";
            let read = |row: &Row<'_>| Ok((text(row, 0)?, optional_text(row, 1)?, row.get(2)?));
            connection.prepare_cached(sql)?.query_row([id.as_str()], read).optional()
        })
    }

    /// All sandboxes, or those of a key, the oldest first.
    pub(crate) fn sandboxes(&self, key: Option<i64>) -> Result<Vec<SandboxRow>> {
        self.read(|connection| {
            let sql = format!("SELECT {COLUMNS} FROM sandboxes WHERE ?1 IS NULL OR key = ?1 ORDER BY created_ms, id");
            connection.prepare_cached(&sql)?.query_map([key], SandboxRow::read)?.collect()
        })
    }

    /// At most `limit` of them, after the one that was made at this moment and has this id; those of a key, or all.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub(crate) fn sandboxes_after(&self, after: Option<(u64, &str)>, limit: usize, key: Option<i64>) -> Result<Vec<SandboxRow>> {
        let (moment, id) = after.unwrap_or((0, ""));
        // Nothing is later than what a column holds.
        let moment = i64::try_from(moment).unwrap_or(i64::MAX);
        self.read(|connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM sandboxes WHERE (created_ms, id) > (?1, ?2) AND (?4 IS NULL OR key = ?4)
                 ORDER BY created_ms, id LIMIT ?3"
            );
            connection.prepare_cached(&sql)?.query_map(params![moment, id, limit, key], SandboxRow::read)?.collect()
        })
    }

    /// The sandbox that a user means, of those of a key or of all: by id, else by name, else by a prefix of an id (with or without `sb-`) that no other id has.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` with the matches when there are several.
    pub(crate) fn find_sandbox(&self, reference: &str, key: Option<i64>) -> Result<SandboxRow> {
        let full = if reference.starts_with("sb-") { reference.to_owned() } else { format!("sb-{reference}") };
        let mut rows = self.read(|connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM sandboxes WHERE name = ?1 AND (?3 IS NULL OR key = ?3)
                 UNION ALL SELECT * FROM (
                    SELECT {COLUMNS} FROM sandboxes WHERE id >= ?2 AND id < ?2 || '~' AND (?3 IS NULL OR key = ?3) ORDER BY id LIMIT 9)"
            );
            connection
                .prepare_cached(&sql)?
                .query_map(params![reference, full, key], SandboxRow::read)?
                .collect::<rusqlite::Result<Vec<_>>>()
        })?;
        if let Some(index) = rows.iter().position(|row| row.id.as_str() == reference || row.name.as_deref() == Some(reference)) {
            return Ok(rows.swap_remove(index));
        }
        if reference.is_empty() || reference == "sb-" {
            rows.clear();
        }
        let names = rows.iter().map(|row| row.name.as_ref().map_or_else(|| row.id.to_string(), |name| format!("{} ({name})", row.id)));
        let names: Vec<String> = names.collect();
        only(rows, &names, "sandbox", reference)
    }

    /// The root file systems that sandboxes and checkpoints need.
    pub(crate) fn roots(&self) -> Result<Vec<RootSource>> {
        self.read(|connection| {
            let sql = "
                SELECT root FROM sandboxes UNION SELECT pending_root FROM sandboxes WHERE pending_root IS NOT NULL
                UNION SELECT root FROM checkpoints";
            connection.prepare_cached(sql)?.query_map([], |row| json(row, 0))?.collect()
        })
    }

    /// Whether a sandbox or a checkpoint has the secrets that are kept under this id.
    pub(crate) fn needs_secrets(&self, vault: &str) -> Result<bool> {
        self.read(|connection| {
            let sql = "
                SELECT 1 FROM sandboxes WHERE json_extract(spec, '$.secrets.vault') = ?1
                UNION ALL SELECT 1 FROM checkpoints WHERE json_extract(spec, '$.secrets.vault') = ?1";
            connection.prepare_cached(sql)?.exists([vault])
        })
    }

    /// Rows in transition, owned, with a deadline, or of another boot.
    pub(crate) fn attention(&self) -> Result<Vec<Attention>> {
        self.read(|connection| {
            let read = |row: &Row<'_>| {
                Ok(Attention {
                    id: text(row, 0)?,
                    boot: row.get(1)?,
                    operation: optional_text(row, 2)?,
                    operator: identity(row, 3)?,
                    owner: identity(row, 6)?,
                    expires_ms: row.get(9)?,
                    attempted_ms: row.get(10)?,
                })
            };
            connection.prepare_cached(ATTENTION)?.query_map([self.boot()], read)?.collect()
        })
    }

    /// Changes what a sandbox may reach.
    pub(crate) fn set_network(&self, id: &SandboxId, network: &Network) -> Result<()> {
        self.write(|transaction| {
            let read = |row: &Row<'_>| json::<SandboxSpec>(row, 0);
            let spec = transaction.prepare_cached("SELECT spec FROM sandboxes WHERE id = ?1")?.query_row([id.as_str()], read).optional()?;
            let Some(spec) = spec else { return Err(crate::runtime::gone(id).into()) };
            let spec = SandboxSpec { network: network.clone(), ..spec };
            transaction.prepare_cached("UPDATE sandboxes SET spec = ?2 WHERE id = ?1")?.execute(params![id.as_str(), to_json(&spec)?])?;
            Ok(())
        })
    }

    /// Changes when it is destroyed.
    pub(crate) fn set_expiry(&self, id: &SandboxId, expires_ms: u64) -> Result<()> {
        self.write(|transaction| {
            let sql = "UPDATE sandboxes SET expires_ms = ?2 WHERE id = ?1";
            let changed = transaction.prepare_cached(sql)?.execute(params![id.as_str(), expires_ms])?;
            if changed == 0 { Err(crate::runtime::gone(id).into()) } else { Ok(()) }
        })
    }

    /// Removes a sandbox's row, with its resources, ports, keeper and id range.
    pub(crate) fn delete_sandbox(&self, id: &SandboxId) -> Result<()> {
        self.write(|transaction| {
            transaction.prepare_cached("DELETE FROM sandboxes WHERE id = ?1")?.execute([id.as_str()])?;
            Ok(())
        })?;
        self.ending().remove(id);
        Ok(())
    }

    /// Remembers that recovery, or destroying it, failed now.
    pub(crate) fn note_attempt(&self, id: &SandboxId, reason: &str) -> Result<()> {
        self.ending().remove(id);
        self.write(|transaction| {
            let sql = "UPDATE sandboxes SET attempted_ms = ?2, reason = ?3 WHERE id = ?1";
            transaction.prepare_cached(sql)?.execute(params![id.as_str(), clock::now_ms(), reason])?;
            Ok(())
        })
    }
}

impl SandboxRow {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: text(row, 0)?,
            name: row.get(1)?,
            provider: row.get(2)?,
            image: row.get(3)?,
            state: text(row, 4)?,
            reason: row.get(5)?,
            choice: row.get(6)?,
            lifetime: if row.get_ref(7)?.as_str()? == lifetime_name(Lifetime::Owned) { Lifetime::Owned } else { Lifetime::Detached },
            boot: row.get(8)?,
            created_ms: row.get(9)?,
            expires_ms: row.get(10)?,
            owner: identity(row, 11)?,
            operation: optional_text(row, 14)?,
            operator: identity(row, 15)?,
            committed: row.get(18)?,
            revision: row.get(19)?,
            ids: row.get::<_, Option<u32>>(20)?.map(|first| IdRange { first, count: IDS }),
            base: optional_text(row, 21)?,
            spec: json(row, 22)?,
            root: json(row, 23)?,
            record: json(row, 24)?,
            gated: row.get(25)?,
            key: row.get(26)?,
        })
    }
}

fn refuse_taken(connection: &Connection, name: &str) -> Result<(), Refusal> {
    let holder = connection
        .prepare_cached("SELECT id FROM sandboxes WHERE name = ?1")?
        .query_row([name], |row| row.get::<_, String>(0))
        .optional()?;
    match holder {
        Some(id) => Err(Error::new(ErrorKind::AlreadyExists, "create", "the name is taken").with("name", name).with("by", id).into()),
        None => Ok(()),
    }
}

/// The lowest number that no sandbox has.
fn free_slot(connection: &Connection, first: u32) -> Result<u32, Refusal> {
    let sql = "
        SELECT CASE WHEN NOT EXISTS (SELECT 1 FROM sandboxes WHERE slot = 0) THEN 0 ELSE (
            SELECT here.slot + 1 FROM sandboxes AS here WHERE here.slot IS NOT NULL
                AND NOT EXISTS (SELECT 1 FROM sandboxes AS next WHERE next.slot = here.slot + 1) ORDER BY here.slot LIMIT 1) END";
    let slot: u32 = connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?;
    if u64::from(first) + u64::from(slot + 1) * u64::from(IDS) > u64::from(IDS_END) {
        let error = Error::new(ErrorKind::ResourceExhausted, "create", "every range of host ids is in use");
        return Err(error.with("ranges", slot).with_hint("remove sandboxes that are not needed, or lower first-id in sandbar.toml").into());
    }
    Ok(slot)
}

const fn lifetime_name(lifetime: Lifetime) -> &'static str {
    match lifetime {
        Lifetime::Detached => "detached",
        Lifetime::Owned => "owned",
    }
}

/// The only one of several candidates.
pub(super) fn only<T>(mut found: Vec<T>, names: &[String], what: &'static str, reference: &str) -> Result<T> {
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (None, _) => Err(Error::new(ErrorKind::NotFound, what, format!("there is no such {what}")).with("reference", reference)),
        (Some(_), false) => Err(Error::new(ErrorKind::InvalidInput, what, "several ids begin like this")
            .with("reference", reference)
            .with("matches", names.join(" "))
            .with_hint("give more of the id, or the name")),
    }
}

fn conversion(index: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(index, Type::Text, Box::new(error))
}

/// A column of text that is parsed.
pub(super) fn text<T: FromStr<Err = Error>>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    row.get_ref(index)?.as_str()?.parse().map_err(|error: Error| conversion(index, error))
}

/// The same, where it may be null.
pub(super) fn optional_text<T: FromStr<Err = Error>>(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<T>> {
    match row.get_ref(index)?.as_str_or_null()? {
        Some(value) => value.parse().map(Some).map_err(|error: Error| conversion(index, error)),
        None => Ok(None),
    }
}

/// A column of JSON.
pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, index: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(index)?.as_str()?).map_err(|error| conversion(index, error))
}

/// The text of a column of JSON.
pub(super) fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|error| Error::new(ErrorKind::Internal, "ledger", "a value cannot be written as JSON").with_source(error))
}

/// Three columns: process id, start time, boot.
pub(super) fn identity(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<ProcessIdentity>> {
    let Some(pid) = row.get(index)? else { return Ok(None) };
    Ok(Some(ProcessIdentity { pid, start_time: row.get(index + 1)?, boot: row.get(index + 2)? }))
}
