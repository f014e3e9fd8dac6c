//! Keeping SQLite's write-ahead log short.
//!
//! What was committed is copied from the log into the database from time to time, which waits for the disk twice: 5 to 20 ms, where a commit takes
//! 0.02. So it is done beside the work, on a thread that nobody waits for. A process that ends meanwhile has lost nothing: the log has everything,
//! and the next process goes on with it.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use rusqlite::{Connection, OpenFlags, hooks::Wal};

/// Pages from which the log is copied. The first process after a pause reads the whole log, 2 microseconds a page.
const ENOUGH: i32 = 250;
/// Pages from which a commit copies it itself: it seems that no process lives long enough to get to the end of it.
const TOO_MANY: i32 = 2000;

/// Has the log of this connection's database kept short.
pub(super) fn bound(connection: &mut Connection, path: &Path) -> rusqlite::Result<()> {
    let path: Arc<Path> = path.into();
    let copying = Arc::new(AtomicBool::new(false));
    // The log begins anew when a commit finds all of it copied, so a copy beside which others commit leaves it as long as it is.
    let mut copied = 0;
    let hook = move |log: &mut Wal, pages: i32| {
        if pages < copied {
            copied = 0;
        }
        if pages >= TOO_MANY {
            // An error here would be told as one of the commit, which has succeeded.
            let _ = log.checkpoint();
        } else if pages >= copied + ENOUGH && !copying.swap(true, Ordering::Relaxed) {
            copied = pages;
            let (path, copying) = (Arc::clone(&path), Arc::clone(&copying));
            let done = Arc::clone(&copying);
            let copy = move || {
                let _ = checkpoint(&path);
                done.store(false, Ordering::Relaxed);
            };
            if thread::Builder::new().name("ledger-log".to_owned()).spawn(copy).is_err() {
                copying.store(false, Ordering::Relaxed);
            }
        }
        Ok(())
    };
    connection.wal_hook(Some(hook))
}

fn checkpoint(path: &Path) -> rusqlite::Result<()> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_does_not_grow_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let mut connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        bound(&mut connection, &path).unwrap();
        connection.execute_batch("CREATE TABLE numbers (number INTEGER)").unwrap();
        for number in 0..10_000 {
            connection.execute("INSERT INTO numbers VALUES (?1)", [number]).unwrap();
        }
        let bytes = std::fs::metadata(path.with_extension("db-wal")).unwrap().len();
        assert!(bytes < u64::from(TOO_MANY.unsigned_abs() + 100) * 4200, "{bytes}");
    }
}
