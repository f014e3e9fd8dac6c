use std::{
    collections::{HashMap, HashSet},
    fs::File,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior, config::DbConfig, ffi};
use rustix::fs::{FlockOperation, flock};
use sandbar_core::{Context, Error, ErrorKind, Resource, Result, SandboxId};

use super::schema;

/// The database of one state folder.
pub(crate) struct Ledger {
    connection: Mutex<Connection>,
    path: PathBuf,
    boot: String,
    ending: Mutex<Ending>,
}

/// Sandboxes that this process destroys, with those of their resources that are gone already.
type Ending = HashMap<SandboxId, HashSet<Resource>>;

impl Ledger {
    /// How long a writer waits for the others. Each holds the lock for tens of microseconds; a stopped process holds it for ever.
    const WAIT: Duration = Duration::from_secs(15);
    /// Opens, makes or migrates the ledger at `path`. `boot` is the present boot's id.
    ///
    /// # Errors
    /// `ResourceExhausted` when the disk is full, `PermissionDenied` when it cannot be written, `Corrupt` when it is not a ledger or is a
    /// newer one.
    pub(crate) fn open(path: &Path, boot: &str) -> Result<Self> {
        let fail = |error| failure(path, error);
        if !path.exists() {
            // SQLite would make it readable for all.
            let made = File::options().write(true).create(true).truncate(false).mode(0o600).open(path);
            made.map_err(|error| Error::io("ledger", "cannot make the ledger", error).with("path", path.display()))?;
        }
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(path, flags).map_err(fail)?;
        connection.busy_handler(Some(busy(Self::WAIT))).map_err(fail)?;
        // Otherwise every command that happens to be alone copies the log and waits for the disk, twice, at its end.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map_err(fail)?;
        connection.set_prepared_statement_cache_capacity(48);
        let version = schema::version(&connection).map_err(fail)?;
        schema::check(version)?;
        if version < schema::CURRENT {
            Self::initialize(&mut connection, path)?;
        }
        connection.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON").map_err(fail)?;
        super::log::bound(&mut connection, path).map_err(fail)?;
        Ok(Self { connection: Mutex::new(connection), path: path.to_owned(), boot: boot.to_owned(), ending: Mutex::default() })
    }

    /// Makes or migrates the tables. Under a lock of its own, since a change of the journal mode does not wait for other connections.
    fn initialize(connection: &mut Connection, path: &Path) -> Result<()> {
        let lock_path = path.with_extension("lock");
        let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.context("ledger", || format!("cannot open {}", lock_path.display()))?;
        let locked = flock(&lock, FlockOperation::LockExclusive).map_err(std::io::Error::from);
        locked.context("ledger", || format!("cannot lock {}", lock_path.display()))?;
        let migrate = |connection: &mut Connection| {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            schema::migrate(&transaction)?;
            transaction.commit()
        };
        migrate(connection).map_err(|error| failure(path, error))
    }

    /// The present boot.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// What this process destroys.
    pub(super) fn ending(&self) -> MutexGuard<'_, Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a transaction has rolled it back; the connection is good.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads, as of one instant if it is one statement.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        read(&self.connection()).map_err(|error| failure(&self.path, error))
    }

    /// Writes, all or nothing. The write lock is taken at the beginning, so that what is read inside is what is written upon.
    pub(super) fn write<T>(&self, write: impl FnOnce(&Transaction<'_>) -> Result<T, Refusal>) -> Result<T> {
        let mut connection = self.connection();
        let attempt = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = write(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        attempt().map_err(|refusal| match refusal {
            Refusal::Ours(error) => error,
            Refusal::Sql(error) => failure(&self.path, error),
        })
    }

    /// Changes whenever another connection has committed.
    pub(crate) fn data_version(&self) -> Result<i64> {
        self.read(|connection| connection.pragma_query_value(None, "data_version", |row| row.get(0)))
    }
}

/// Why a transaction was not committed.
pub(super) enum Refusal {
    /// A rule of ours.
    Ours(Error),
    /// SQLite.
    Sql(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Ours(error)
    }
}

/// Waits in small steps: SQLite's own handler goes up to 100 ms a step, a thousand times what a writer takes.
fn busy(wait: Duration) -> impl FnMut(i32) -> bool + Send + 'static {
    let mut begin = Instant::now();
    move |count| {
        if count == 0 {
            begin = Instant::now();
        }
        thread::sleep(Duration::from_micros(100 << count.clamp(0, 4)));
        begin.elapsed() < wait
    }
}

/// Our error for one of SQLite.
pub(super) fn failure(path: &Path, error: rusqlite::Error) -> Error {
    use ffi::ErrorCode;
    let (kind, message, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => {
            (ErrorKind::ResourceExhausted, "the state folder's file system is full", Some("free some space, or set SANDBAR_HOME"))
        }
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            (ErrorKind::PermissionDenied, "the ledger cannot be written", Some("set SANDBAR_HOME to a folder that can be written"))
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Unavailable, "the ledger is held by another process that does not let go", None)
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => (ErrorKind::Corrupt, "the ledger is damaged", None),
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Unavailable, "the ledger cannot be read or written", None),
        _ if matches!(error, rusqlite::Error::FromSqlConversionFailure(..)) => {
            (ErrorKind::Corrupt, "a row of the ledger cannot be understood", None)
        }
        _ => (ErrorKind::Internal, "the ledger refused", None),
    };
    let error = Error::new(kind, "ledger", message).with("path", path.display()).with_source(error);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_ledger_is_told_as_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        std::fs::write(&path, "this is not a database, and it is long enough for a header of SQLite to be read from it ….").unwrap();
        let error = Ledger::open(&path, "b").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{}", error.chain());
    }

    #[test]
    fn a_full_disk_is_told_and_what_was_written_stays() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&folder.path().join("ledger.db"), "b").unwrap();
        ledger.set_probe("first", 0, "1", "usable").unwrap();
        // SQLite's own limit fails as a full file system does.
        let pages: i64 = ledger.read(|connection| connection.pragma_query_value(None, "page_count", |row| row.get(0))).unwrap();
        ledger.read(|connection| connection.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(()))).unwrap();
        let full = (0..).find_map(|number| ledger.set_probe(&format!("provider {number}"), 0, "1", &"x".repeat(1000)).err()).unwrap();
        assert_eq!(full.kind(), ErrorKind::ResourceExhausted, "{}", full.chain());
        assert!(full.hint().is_some());
        assert!(ledger.usable_probe("first", 0, "1").unwrap().is_some());
        ledger.delete_probe("first").unwrap();
    }

    #[test]
    fn many_may_make_the_ledger_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.db");
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| Ledger::open(&path, "b").unwrap());
            }
        });
    }
}
