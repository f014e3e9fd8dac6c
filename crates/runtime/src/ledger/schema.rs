//! The tables. A version that was released is never edited: the next one changes it.

use rusqlite::Connection;
use sandbar_core::{Error, ErrorKind, Result};

/// `MIGRATIONS[n]` leads from version n to n + 1, which `PRAGMA user_version` holds.
///
/// Rows that are looked for on the way of every command (what needs somebody's attention) have a partial index, so that an idle ledger of
/// a thousand sandboxes costs a command one page.
const MIGRATIONS: [&str; 6] = [VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5, VERSION_6];

const VERSION_1: &str = "
CREATE TABLE checkpoints (
    id              TEXT PRIMARY KEY NOT NULL,
    name            TEXT UNIQUE,
    sandbox         TEXT NOT NULL,
    provider        TEXT NOT NULL,
    kind            TEXT NOT NULL,
    image           TEXT NOT NULL,
    root            TEXT NOT NULL,
    spec            TEXT NOT NULL,
    parent          TEXT REFERENCES checkpoints(id),
    bytes           INTEGER NOT NULL DEFAULT 0,
    files           INTEGER NOT NULL DEFAULT 0,
    record          TEXT NOT NULL DEFAULT 'null',
    state           TEXT NOT NULL,
    implicit        INTEGER NOT NULL DEFAULT 0,
    created_ms      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX checkpoints_unfinished ON checkpoints(id) WHERE state <> 'ready';

CREATE TABLE sandboxes (
    id              TEXT PRIMARY KEY NOT NULL,
    name            TEXT UNIQUE,
    provider        TEXT NOT NULL,
    image           TEXT NOT NULL,
    state           TEXT NOT NULL,
    reason          TEXT,
    choice          TEXT NOT NULL,
    lifetime        TEXT NOT NULL,
    boot            TEXT NOT NULL,
    created_ms      INTEGER NOT NULL,
    expires_ms      INTEGER,
    owner_pid       INTEGER,
    owner_start     INTEGER,
    owner_boot      TEXT,
    operation       TEXT,
    operator_pid    INTEGER,
    operator_start  INTEGER,
    operator_boot   TEXT,
    committed       INTEGER NOT NULL DEFAULT 0,
    revision        INTEGER NOT NULL DEFAULT 0,
    slot            INTEGER UNIQUE,
    first_id        INTEGER,
    base            TEXT REFERENCES checkpoints(id),
    pending_base    TEXT REFERENCES checkpoints(id),
    pending_root    TEXT,
    spec            TEXT NOT NULL,
    root            TEXT NOT NULL,
    record          TEXT NOT NULL DEFAULT 'null'
) STRICT, WITHOUT ROWID;
CREATE INDEX sandboxes_boot ON sandboxes(boot);
CREATE INDEX sandboxes_attention ON sandboxes(id)
    WHERE operation IS NOT NULL OR owner_pid IS NOT NULL OR expires_ms IS NOT NULL;

CREATE TABLE resources (
    sandbox         TEXT NOT NULL REFERENCES sandboxes(id) ON DELETE CASCADE,
    resource        TEXT NOT NULL,
    kept            INTEGER NOT NULL,
    fresh           INTEGER NOT NULL,
    PRIMARY KEY (sandbox, resource)
) STRICT, WITHOUT ROWID;

CREATE TABLE ports (
    sandbox         TEXT NOT NULL REFERENCES sandboxes(id) ON DELETE CASCADE,
    port            INTEGER NOT NULL,
    wanted          TEXT NOT NULL,
    actual          TEXT,
    failure         TEXT,
    holder_pid      INTEGER,
    holder_start    INTEGER,
    holder_boot     TEXT,
    PRIMARY KEY (sandbox, port)
) STRICT, WITHOUT ROWID;

CREATE TABLE keepers (
    sandbox         TEXT PRIMARY KEY NOT NULL REFERENCES sandboxes(id) ON DELETE CASCADE,
    pid             INTEGER NOT NULL,
    start           INTEGER NOT NULL,
    boot            TEXT NOT NULL
) STRICT, WITHOUT ROWID;
";

/// What could not be recovered is not tried again by every command; providers that were found usable are remembered for a boot.
const VERSION_2: &str = "
ALTER TABLE sandboxes ADD COLUMN attempted_ms INTEGER;

CREATE TABLE probes (
    provider        TEXT NOT NULL,
    user            INTEGER NOT NULL,
    boot            TEXT NOT NULL,
    version         TEXT NOT NULL,
    verdict         TEXT NOT NULL,
    checked_ms      INTEGER NOT NULL,
    PRIMARY KEY (provider, user)
) STRICT, WITHOUT ROWID;
";

/// Sandboxes about whose connections the host decides: somebody must be there to decide.
const VERSION_3: &str = "
ALTER TABLE sandboxes ADD COLUMN gated INTEGER NOT NULL DEFAULT 0;
CREATE INDEX sandboxes_gated ON sandboxes(id) WHERE gated = 1;
";

/// Keys, and what was made with them. What belongs to a key that is removed is nobody's.
const VERSION_4: &str = "
CREATE TABLE keys (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    name            TEXT NOT NULL UNIQUE,
    digest          BLOB NOT NULL UNIQUE,
    scope           TEXT NOT NULL,
    max_sandboxes   INTEGER,
    created_ms      INTEGER NOT NULL,
    expires_ms      INTEGER
) STRICT;
ALTER TABLE sandboxes ADD COLUMN key INTEGER REFERENCES keys(id) ON DELETE SET NULL;
CREATE INDEX sandboxes_key ON sandboxes(key) WHERE key IS NOT NULL;
ALTER TABLE checkpoints ADD COLUMN key INTEGER REFERENCES keys(id) ON DELETE SET NULL;
CREATE INDEX checkpoints_key ON checkpoints(key) WHERE key IS NOT NULL;
";

/// What happens to sandboxes, written by the database itself in the transaction in which it happens: whoever makes it happen, nothing is missing and nothing is told that was
/// rolled back. The newest ten thousand are kept. Numbers are given in order and never again, since the newest row stays.
const VERSION_5: &str = "
CREATE TABLE events (
    id              INTEGER PRIMARY KEY NOT NULL,
    time_ms         INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    sandbox         TEXT NOT NULL,
    name            TEXT,
    detail          TEXT,
    key             INTEGER
) STRICT;
CREATE TRIGGER events_kept AFTER INSERT ON events BEGIN
    DELETE FROM events WHERE id <= NEW.id - 10000;
END;
CREATE TRIGGER sandboxes_turned AFTER UPDATE OF state ON sandboxes
    WHEN NEW.state <> OLD.state AND NEW.state IN ('running', 'paused', 'stopped', 'crashed')
BEGIN
    INSERT INTO events (time_ms, kind, sandbox, name, detail, key) VALUES (
        CAST(unixepoch('subsec') * 1000 AS INTEGER),
        CASE NEW.state WHEN 'running' THEN
            CASE OLD.state WHEN 'provisioning' THEN 'created' WHEN 'paused' THEN 'resumed' ELSE 'started' END
        ELSE NEW.state END,
        NEW.id, NEW.name,
        CASE WHEN NEW.state = 'crashed' THEN NEW.reason WHEN OLD.state = 'provisioning' THEN NEW.provider END,
        NEW.key);
END;
CREATE TRIGGER sandboxes_restored AFTER UPDATE OF committed ON sandboxes
    WHEN NEW.operation = 'restore' AND NEW.committed = 1 AND OLD.committed = 0
BEGIN
    INSERT INTO events (time_ms, kind, sandbox, name, detail, key)
        VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), 'restored', NEW.id, NEW.name, NEW.base, NEW.key);
END;
CREATE TRIGGER sandboxes_destroyed AFTER DELETE ON sandboxes WHEN OLD.revision > 0 BEGIN
    INSERT INTO events (time_ms, kind, sandbox, name, detail, key)
        VALUES (CAST(unixepoch('subsec') * 1000 AS INTEGER), 'destroyed', OLD.id, OLD.name, NULL, OLD.key);
END;
CREATE TRIGGER checkpoints_made AFTER UPDATE OF state ON checkpoints
    WHEN NEW.state = 'ready' AND OLD.state = 'saving' AND EXISTS (SELECT 1 FROM sandboxes WHERE id = NEW.sandbox)
BEGIN
    INSERT INTO events (time_ms, kind, sandbox, name, detail, key)
        SELECT CAST(unixepoch('subsec') * 1000 AS INTEGER), 'checkpointed', id, name, NEW.id, key FROM sandboxes WHERE id = NEW.sandbox;
END;
";

/// Creations that were asked for with a key of the client's own, so that they are done once; `key` is whose it is, 0 without one.
const VERSION_6: &str = "
CREATE TABLE creations (
    key             INTEGER NOT NULL,
    word            TEXT NOT NULL,
    request         BLOB NOT NULL,
    sandbox         TEXT NOT NULL,
    made            INTEGER NOT NULL DEFAULT 0,
    time_ms         INTEGER NOT NULL,
    PRIMARY KEY (key, word)
) STRICT, WITHOUT ROWID;
CREATE INDEX creations_time ON creations(time_ms);
";

/// The version that this program writes.
pub(super) const CURRENT: usize = MIGRATIONS.len();

/// The version of a database.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<usize> {
    connection
        .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        .map(|version| usize::try_from(version).unwrap_or(usize::MAX))
}

/// Leads a database to [`CURRENT`], inside the caller's transaction.
pub(super) fn migrate(connection: &Connection) -> rusqlite::Result<()> {
    for (index, migration) in MIGRATIONS.iter().enumerate().skip(version(connection)?) {
        connection.execute_batch(migration)?;
        connection.pragma_update(None, "user_version", index + 1)?;
    }
    Ok(())
}

/// Refuses a database of a newer program: what it means is not known here.
pub(super) fn check(version: usize) -> Result<()> {
    if version <= CURRENT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, "ledger", "the state folder was written by a newer sandbar")
        .with("its version", version)
        .with("known here", CURRENT)
        .with_hint("use the newer program, or another SANDBAR_HOME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_version_1_survive_the_migration() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(VERSION_1).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        let insert = "
            INSERT INTO sandboxes (id, name, provider, image, state, choice, lifetime, boot, created_ms, slot, first_id, spec, root, record)
            VALUES ('sb-bbbbbbbbbbbb', 'web', 'container', 'host', 'running', 'asked for', 'detached', 'b', 5, 0, 1073741824,
                    '{}', '{}', '{\"pid\":1}');
            INSERT INTO resources VALUES ('sb-bbbbbbbbbbbb', '{\"type\":\"folder\",\"path\":\"/x\"}', 0, 1);
            INSERT INTO ports (sandbox, port, wanted) VALUES ('sb-bbbbbbbbbbbb', 80, '127.0.0.1:0');";
        connection.execute_batch(insert).unwrap();
        migrate(&connection).unwrap();
        assert_eq!(version(&connection).unwrap(), CURRENT);
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let (name, attempted, gated): (String, Option<i64>, bool) =
            connection.query_row("SELECT name, attempted_ms, gated FROM sandboxes", [], read).unwrap();
        assert_eq!((name.as_str(), attempted, gated), ("web", None, false));
        let count = |table: &str| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!((count("resources"), count("ports"), count("probes")), (1, 1, 0));
        migrate(&connection).unwrap();
    }

    #[test]
    fn a_newer_database_is_refused() {
        assert!(check(CURRENT).is_ok());
        assert_eq!(check(CURRENT + 1).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn looking_for_work_reads_an_index() {
        let connection = Connection::open_in_memory().unwrap();
        migrate(&connection).unwrap();
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {}", super::super::sandbox_row::ATTENTION)).unwrap();
        let steps: Vec<String> = plan.query_map(["x"], |row| row.get(3)).unwrap().map(Result::unwrap).collect();
        assert!(steps.iter().all(|step| !step.starts_with("SCAN sandboxes") || step.contains("USING INDEX")), "{steps:?}");
    }
}
