use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    net::IpAddr,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use sandbar_core::{Context, Result};
use serde::{Deserialize, Serialize};

use super::kept;

/// The newest part. It becomes the older one when it has grown to [`MOST`].
const NEW: &str = "network.log";
/// The part before.
const OLD: &str = "network.log.1";
/// Bytes of one part: some twenty thousand decisions.
const MOST: u64 = 4 << 20;

/// What was decided, or what became of it.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkEvent {
    /// A name may be asked for, a connection was made, or datagrams may go.
    Allowed,
    /// It was refused.
    Refused,
    /// It was allowed, and could not be connected to.
    Failed,
    /// A connection, or a flow of datagrams, that was allowed has ended.
    Ended,
    /// A secret was put into a request.
    Secret,
    /// A placeholder of a secret goes where it is not replaced: somebody inside may have tried to send the secret there.
    Leak,
}

/// One line of the log. The names of the fields are those of the JSON.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// Unix milliseconds.
    pub time_ms: u64,
    /// What happened.
    pub event: NetworkEvent,
    /// `dns`, `tcp` or `udp`.
    pub protocol: String,
    /// The name, where it was one.
    pub name: Option<String>,
    /// The address that was decided about.
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub address: Option<IpAddr>,
    /// The port.
    pub port: Option<u16>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Why.
    pub reason: String,
    /// The process's id inside, and its name, as the agent claims.
    pub claimed_pid: Option<u32>,
    /// See [`claimed_pid`](Self::claimed_pid).
    pub claimed_process: Option<String>,
    /// Bytes that went out, of a connection that has ended or was cut off.
    pub sent: Option<u64>,
    /// Bytes that came in.
    pub received: Option<u64>,
}

/// Where decisions are written.
pub(super) struct Writer {
    folder: PathBuf,
    part: Mutex<Part>,
}

/// The part that is written.
#[derive(Default)]
struct Part {
    /// And how long it is.
    file: Option<(File, u64)>,
    /// The time of the newest line. None is older than the one before, whoever was first, and whatever the clock does: readers go by it.
    newest_ms: u64,
}

impl Writer {
    /// Writes into a sandbox's folder.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, part: Mutex::default() }
    }

    /// Adds a line. What cannot be written is told in this process's own log.
    pub(super) fn add(&self, record: NetworkRecord) {
        if let Err(error) = self.try_add(record) {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot write the network log");
        }
    }

    fn try_add(&self, mut record: NetworkRecord) -> io::Result<()> {
        let mut part = self.part.lock().unwrap_or_else(PoisonError::into_inner);
        let Part { file, newest_ms } = &mut *part;
        *newest_ms = record.time_ms.max(*newest_ms);
        record.time_ms = *newest_ms;
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        if file.as_ref().is_none_or(|(_, length)| *length >= MOST) {
            let new = self.folder.join(NEW);
            if fs::metadata(&new).is_ok_and(|metadata| metadata.len() >= MOST) {
                let old = self.folder.join(OLD);
                // Whatever that meets, a full disk above all: the newest lines are worth more.
                if let Err(error) = self.keep_first(&old) {
                    tracing::warn!(folder = %self.folder.display(), %error, "cannot keep the first lines of the network log");
                }
                fs::rename(&new, old)?;
            }
            let opened = OpenOptions::new().create(true).append(true).mode(0o600).open(&new)?;
            let length = opened.metadata()?.len();
            *file = Some((opened, length));
        }
        if let Some((file, length)) = file.as_mut() {
            file.write_all(&line)?;
            *length += line.len() as u64;
        }
        Ok(())
    }

    /// Before a part goes.
    fn keep_first(&self, part: &Path) -> io::Result<()> {
        let mut leaving = Vec::new();
        if let Some(mut part) = open(part)? {
            read_from(&mut part, 0, &mut leaving)?;
        }
        kept::keep(&self.folder, &leaving)
    }
}

/// The decisions about one sandbox, oldest first: the newest four to eight MiB of them, and of those before them the first of each.
#[derive(Debug)]
pub struct NetworkLog {
    folder: PathBuf,
    /// The part that is read, and how far. It is kept open: what was written in it can be read also when it is gone.
    at: Option<(File, u64)>,
}

impl NetworkLog {
    pub(super) fn of(folder: PathBuf) -> Self {
        Self { folder, at: None }
    }

    /// What has been written since the last call; at the first, all that is kept.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self) -> Result<Vec<NetworkRecord>> {
        self.try_read().context("network log", || format!("cannot read the log in {}", self.folder.display()))
    }

    /// Passes over all that is kept: the next call of [`read`](Self::read) gives what comes after it.
    pub(crate) fn skip(&mut self) -> Result<()> {
        let end = open(&self.folder.join(NEW)).and_then(|file| match file {
            // Lines are written whole.
            Some(mut file) => file.seek(SeekFrom::End(0)).map(|end| Some((file, end))),
            None => Ok(None),
        });
        self.at = end.context("network log", || format!("cannot read the log in {}", self.folder.display()))?;
        Ok(())
    }

    fn try_read(&mut self) -> io::Result<Vec<NetworkRecord>> {
        let mut records = Vec::new();
        let number = |file: &Option<File>| file.as_ref().map(File::metadata).transpose().map(|found| found.map(|found| found.ino()));
        // In this order: one that changes its name in between is both.
        let new = open(&self.folder.join(NEW))?;
        let old = open(&self.folder.join(OLD))?;
        let (new_number, old_number) = (number(&new)?, number(&old)?);
        let mut last = None;
        if let Some((part, offset)) = &mut self.at {
            *offset = read_from(part, *offset, &mut records)?;
            last = Some(part.metadata()?.ino());
        }
        if last.is_some() && new_number == last {
            return Ok(records);
        }
        let is_first = self.at.is_none();
        let unread = [old.filter(|_| old_number != last && old_number != new_number), new];
        for mut part in unread.into_iter().flatten() {
            let end = read_from(&mut part, 0, &mut records)?;
            self.at = Some((part, end));
        }
        if is_first {
            let kept = kept::read(&self.folder)?;
            records.splice(0..0, earlier(kept, &records));
        }
        Ok(records)
    }
}

/// Those that are not among the records as well, as they are when a part is left while it is read.
fn earlier(mut kept: Vec<NetworkRecord>, records: &[NetworkRecord]) -> Vec<NetworkRecord> {
    if let Some(first) = records.first().map(|record| record.time_ms) {
        let at_first = records.iter().take_while(|record| record.time_ms == first).count();
        kept.retain(|record| record.time_ms < first || (record.time_ms == first && !records[..at_first].contains(record)));
    }
    kept
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads whole lines, and tells where the next one begins.
fn read_from(file: &mut File, offset: u64, records: &mut Vec<NetworkRecord>) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::Start(offset))?;
    let mut reader = BufReader::new(file.take(2 * MOST));
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 && line.ends_with(b"\n") {
        end += line.len() as u64;
        // A machine that lost its power may have left half a line.
        records.extend(serde_json::from_slice::<NetworkRecord>(&line).ok());
        line.clear();
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> NetworkRecord {
        NetworkRecord {
            time_ms: number,
            event: NetworkEvent::Refused,
            protocol: "tcp".to_owned(),
            name: Some("x".repeat(200)),
            address: None,
            port: Some(443),
            rule: None,
            reason: "no rule allows it".to_owned(),
            claimed_pid: None,
            claimed_process: None,
            sent: None,
            received: None,
        }
    }

    #[test]
    fn a_reader_that_follows_reads_the_last_words_also_when_the_log_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::new(folder.path().to_owned());
        let mut log = NetworkLog::of(folder.path().to_owned());
        writer.add(record(1));
        assert_eq!(log.read().unwrap().len(), 1);
        writer.add(record(2));
        fs::remove_file(folder.path().join(NEW)).unwrap();
        assert_eq!(log.read().unwrap(), [record(2)]);
        assert_eq!(log.read().unwrap(), []);
    }

    #[test]
    fn a_reader_that_begins_now_reads_what_comes() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::new(folder.path().to_owned());
        let mut log = NetworkLog::of(folder.path().to_owned());
        log.skip().unwrap();
        writer.add(record(1));
        assert_eq!(log.read().unwrap(), [record(1)]);
        let mut log = NetworkLog::of(folder.path().to_owned());
        log.skip().unwrap();
        assert_eq!(log.read().unwrap(), []);
        writer.add(record(2));
        assert_eq!(log.read().unwrap(), [record(2)]);
    }

    #[test]
    fn what_was_told_first_is_not_washed_away() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::new(folder.path().to_owned());
        let of = |event, name: &str, number| NetworkRecord { event, name: Some(name.to_owned()), ..record(number) };
        let told = [
            of(NetworkEvent::Leak, "thief.example", 1),
            of(NetworkEvent::Allowed, "allowed.example", 2),
            of(NetworkEvent::Refused, "secret.example", 3),
            NetworkRecord { port: Some(22), ..of(NetworkEvent::Refused, "secret.example", 4) },
        ];
        told.iter().for_each(|record| writer.add(record.clone()));
        let again = of(NetworkEvent::Refused, "secret.example", 5);
        writer.add(again.clone());
        // Names that are all different, which is the best that somebody inside can do: more than both parts, and more than a share.
        for number in 0..60_000 {
            writer.add(of(NetworkEvent::Refused, &format!("{number:0200}"), 6 + number));
        }
        writer.add(of(NetworkEvent::Leak, "another.example", 70_000));
        let read = NetworkLog::of(folder.path().to_owned()).read().unwrap();
        assert_eq!(read[..4], told);
        assert!(!read.contains(&again), "the same is kept twice");
        assert_eq!(read.last().map(|record| record.time_ms), Some(70_000));
        assert!(read.windows(2).all(|pair| pair[0].time_ms < pair[1].time_ms));
        let size: u64 = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert!(size < 2 * MOST + (300 << 10), "{size} bytes");
        // A flood of leaks, too: the first of them stay.
        for number in 0..60_000 {
            writer.add(of(NetworkEvent::Leak, &format!("{number:0200}"), 80_000 + number));
        }
        let read = NetworkLog::of(folder.path().to_owned()).read().unwrap();
        assert_eq!(read[..4], told);
        assert!(read.iter().any(|record| record.time_ms == 70_000));
    }

    #[test]
    fn what_is_kept_and_still_in_the_log_is_read_once() {
        let mut old = record(1);
        old.port = Some(1);
        let (same, new) = (record(2), record(3));
        let kept = vec![old.clone(), NetworkRecord { port: Some(2), ..same.clone() }, same.clone(), new.clone()];
        let records = [same.clone(), same, new];
        assert_eq!(earlier(kept.clone(), &records), kept[..2]);
        assert_eq!(earlier(kept.clone(), &[]), kept);
    }

    #[test]
    fn a_reader_that_follows_misses_nothing_when_parts_are_changed() {
        let folder = tempfile::tempdir().unwrap();
        let writer = Writer::new(folder.path().to_owned());
        let mut log = NetworkLog::of(folder.path().to_owned());
        assert_eq!(log.read().unwrap(), []);
        let mut next = 0;
        // Enough for several parts.
        for number in 0..40_000 {
            writer.add(record(number));
            if number % 1000 == 999 {
                for read in log.read().unwrap() {
                    assert_eq!(read.time_ms, next);
                    next += 1;
                }
            }
        }
        assert_eq!(next, 40_000);
        let size = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
        assert!(size(NEW) <= MOST + 1000 && size(OLD) <= MOST + 1000);
        let kept = NetworkLog::of(folder.path().to_owned()).read().unwrap();
        assert_eq!(kept.last().map(|record| record.time_ms), Some(39_999));
    }
}
