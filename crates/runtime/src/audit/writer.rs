use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, ErrorKind as Io, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{FlockOperation, flock};

use super::{AuditRecord, ENOUGH, KEPT, part, parts};

/// How long a line waits for whoever begins another part, which takes microseconds; a process that was stopped meanwhile takes for ever.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks.
const LOOK: Duration = Duration::from_micros(100);

/// Adds lines to the log of a state folder.
///
/// Any number of processes do. A line is one write at the end of the newest part, under a shared lock of it; another part is begun under an exclusive one. So nothing is
/// added to a part that has a successor, and who has read it to its end has read it.
pub(crate) struct AuditWriter {
    folder: PathBuf,
    newest: Mutex<Option<(u64, File)>>,
}

impl AuditWriter {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, newest: Mutex::default() }
    }

    /// Adds a line. What cannot be written is told in this process's own log: what was done is done.
    pub(crate) fn add(&self, record: &AuditRecord) {
        if let Err(error) = self.try_add(record) {
            tracing::warn!(folder = %self.folder.display(), %error, verb = record.verb, "cannot write the audit log");
        }
    }

    fn try_add(&self, record: &AuditRecord) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (number, file) = match newest.take() {
                Some(known) => known,
                None => self.open_newest()?,
            };
            share(&file)?;
            let is_newest = !part(&self.folder, number + 1).exists();
            if is_newest && (file.metadata()?.len() < ENOUGH || !self.begin_another(number, &file)?) {
                let written = (&file).write_all(&line);
                flock(&file, FlockOperation::Unlock)?;
                *newest = Some((number, file));
                return written;
            }
        }
    }

    fn open_newest(&self) -> io::Result<(u64, File)> {
        let number = match parts(&self.folder)?.last() {
            Some(number) => *number,
            None => {
                DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
                1
            }
        };
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(part(&self.folder, number))?;
        Ok((number, file))
    }

    /// Begins the part after this one, unless somebody writes to this one now; the next line will do it then. Tells whether there is one.
    fn begin_another(&self, number: u64, file: &File) -> io::Result<bool> {
        // The shared lock is given up, whether or not the exclusive one is to be had.
        if flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
            share(file)?;
            return Ok(part(&self.folder, number + 1).exists());
        }
        let made = OpenOptions::new().append(true).create_new(true).mode(0o600).open(part(&self.folder, number + 1));
        if let Err(error) = made
            && error.kind() != Io::AlreadyExists
        {
            return Err(error);
        }
        for old in parts(&self.folder)?.into_iter().filter(|old| old + KEPT <= number + 1) {
            match fs::remove_file(part(&self.folder, old)) {
                Err(error) if error.kind() != Io::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(true)
    }
}

/// Takes a shared lock. It goes with the descriptor, at the latest.
fn share(file: &File) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < until => thread::sleep(LOOK),
            // A line too many in an old part is better than none.
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(()),
            locked => return Ok(locked?),
        }
    }
}
