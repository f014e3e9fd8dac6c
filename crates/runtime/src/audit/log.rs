use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::PathBuf,
    str::FromStr,
};

use sandbar_core::{Context, Error, ErrorKind, Result};

use super::{AuditRecord, part, parts};

const OPERATION: &str = "audit log";

/// What was done in a state folder, oldest first: the newest 28 to 32 MiB of it.
#[derive(Debug, Clone)]
pub struct AuditLog {
    folder: PathBuf,
}

/// A place between two lines. Those before it are older.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuditPlace {
    part: u64,
    offset: u64,
}

impl fmt::Display for AuditPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.part, self.offset)
    }
}

impl FromStr for AuditPlace {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let place = text.split_once('.').and_then(|(part, offset)| Some(Self { part: part.parse().ok()?, offset: offset.parse().ok()? }));
        place.ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, OPERATION, "not a place in the audit log").with("value", format!("{text:?}"))
        })
    }
}

/// Which lines are wanted.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Those of this moment (Unix milliseconds) and later.
    pub since_ms: u64,
    /// Those of the sandbox with this id, or name, or with an id that begins like this. It may be gone.
    pub sandbox: Option<String>,
}

impl AuditFilter {
    fn wants(&self, record: &AuditRecord) -> bool {
        let of = |reference: &String| {
            let begins = |id: &str| id.starts_with(reference.as_str());
            let id = record.sandbox.as_ref().map(|id| id.as_str());
            let is_meant = id.is_some_and(|id| begins(id) || id.strip_prefix("sb-").is_some_and(begins));
            is_meant || record.name.as_ref() == Some(reference)
        };
        record.time_ms >= self.since_ms && self.sandbox.as_ref().is_none_or(of)
    }
}

impl AuditLog {
    pub(super) fn of(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// At most `limit` lines from a place on, and the place after them, from which a later call goes on. What is older than all that is kept is gone.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, from: AuditPlace, limit: usize, filter: &AuditFilter) -> Result<(Vec<AuditRecord>, AuditPlace)> {
        self.try_read(from, limit, filter).context(OPERATION, || format!("cannot read the log in {}", self.folder.display()))
    }

    fn try_read(&self, from: AuditPlace, limit: usize, filter: &AuditFilter) -> io::Result<(Vec<AuditRecord>, AuditPlace)> {
        let (mut records, mut place) = (Vec::new(), from);
        for number in parts(&self.folder)?.into_iter().filter(|number| *number >= from.part) {
            let file = match File::open(part(&self.folder, number)) {
                // Too old, since a moment ago.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            if number != place.part {
                place = AuditPlace { part: number, offset: 0 };
            }
            let mut lines = BufReader::new(file);
            lines.seek(SeekFrom::Start(place.offset))?;
            let mut line = Vec::new();
            while records.len() < limit {
                line.clear();
                let length = lines.read_until(b'\n', &mut line)?;
                // One that is being written has no end yet.
                if line.last() != Some(&b'\n') {
                    break;
                }
                place.offset += length as u64;
                // A line that the end of a full disk has cut in two is none.
                records.extend(serde_json::from_slice(&line).ok().filter(|record| filter.wants(record)));
            }
            if records.len() == limit {
                break;
            }
        }
        Ok((records, place))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::{
        super::{Actor, AuditWriter, ENOUGH, KEPT},
        *,
    };

    fn record(number: u64, target: &str) -> AuditRecord {
        AuditRecord {
            time_ms: number,
            duration_micros: 1,
            actor: Actor::Key { name: "ci".to_owned() },
            verb: "exec".to_owned(),
            sandbox: Some(sandbar_core::SandboxId::from_random([1; 8])),
            name: Some("web".to_owned()),
            target: Some(target.to_owned()),
            pid: None,
            exit_code: None,
            outcome: "ok".to_owned(),
        }
    }

    fn numbers(records: &[AuditRecord]) -> Vec<u64> {
        records.iter().map(|record| record.time_ms).collect()
    }

    #[test]
    fn what_was_written_is_read_in_pages_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let log = AuditLog::of(folder.path().join("audit"));
        let all = AuditFilter::default();
        assert_eq!(log.read(AuditPlace::default(), 9, &all).unwrap(), (vec![], AuditPlace::default()));
        let writer = AuditWriter::new(folder.path().join("audit"));
        (0..5).for_each(|number| writer.add(&record(number, "true")));
        let (first, place) = log.read(AuditPlace::default(), 3, &all).unwrap();
        let (second, place) = log.read(place.to_string().parse().unwrap(), 3, &all).unwrap();
        assert_eq!((numbers(&first), numbers(&second)), (vec![0, 1, 2], vec![3, 4]));
        assert_eq!(log.read(place, 3, &all).unwrap(), (vec![], place));
        writer.add(&record(5, "true"));
        assert_eq!(numbers(&log.read(place, 3, &all).unwrap().0), [5]);
        let of = |since_ms, sandbox: &str| {
            let filter = AuditFilter { since_ms, sandbox: Some(sandbox.to_owned()) };
            numbers(&log.read(AuditPlace::default(), 9, &filter).unwrap().0)
        };
        let id = sandbar_core::SandboxId::from_random([1; 8]).to_string();
        assert_eq!((of(4, "web"), of(5, &id[..6]), of(5, &id[3..8]), of(0, "other")), (vec![4, 5], vec![5], vec![5], vec![]));
        assert!("1".parse::<AuditPlace>().is_err() && "x.1".parse::<AuditPlace>().is_err());
    }

    #[test]
    fn a_line_that_is_not_whole_is_not_read_and_one_that_is_broken_hides_no_other() {
        use std::io::Write;
        let folder = tempfile::tempdir().unwrap();
        let (log, writer) = (AuditLog::of(folder.path().to_owned()), AuditWriter::new(folder.path().to_owned()));
        writer.add(&record(0, "true"));
        let mut file = fs::OpenOptions::new().append(true).open(part(folder.path(), 1)).unwrap();
        file.write_all(b"{\"time_ms\":").unwrap();
        let (read, place) = log.read(AuditPlace::default(), 9, &AuditFilter::default()).unwrap();
        assert_eq!(numbers(&read), [0]);
        file.write_all(b"\n").unwrap();
        writer.add(&record(1, "true"));
        assert_eq!(numbers(&log.read(place, 9, &AuditFilter::default()).unwrap().0), [1]);
    }

    #[test]
    fn many_write_and_one_follows_and_nothing_is_missing() {
        const WRITERS: u64 = 4;
        const LINES: u64 = 10_000;
        let folder = tempfile::tempdir().unwrap();
        // Several parts, as many as are kept at most.
        let target = "x".repeat(200);
        let log = AuditLog::of(folder.path().to_owned());
        let (mut seen, mut place) = (vec![Vec::new(); WRITERS as usize], AuditPlace::default());
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (own, target) = (AuditWriter::new(folder.path().to_owned()), &target);
                scope.spawn(move || (0..LINES).for_each(|line| own.add(&record(writer * LINES + line, target))));
            }
            while seen.iter().map(Vec::len).sum::<usize>() < (WRITERS * LINES) as usize {
                let (records, next) = log.read(place, 1000, &AuditFilter::default()).unwrap();
                numbers(&records).into_iter().for_each(|number| seen[(number / LINES) as usize].push(number % LINES));
                place = next;
            }
        });
        assert!(seen.into_iter().all(|seen| seen.into_iter().eq(0..LINES)), "lines are missing, or twice, or out of order");
        assert!(place.part > 1, "it was to begin other parts");
    }

    #[test]
    fn the_oldest_parts_go() {
        let folder = tempfile::tempdir().unwrap();
        let writer = AuditWriter::new(folder.path().to_owned());
        for number in 1..=KEPT + 3 {
            writer.add(&record(number, "true"));
            fs::OpenOptions::new().append(true).open(part(folder.path(), number)).unwrap().set_len(ENOUGH).unwrap();
        }
        writer.add(&record(0, "true"));
        let there = parts(folder.path()).unwrap();
        assert_eq!((there.len() as u64, there.last()), (KEPT, Some(&(KEPT + 4))));
        let place = AuditPlace { part: 1, offset: 7 };
        let (_, next) = AuditLog::of(folder.path().to_owned()).read(place, 9, &AuditFilter::default()).unwrap();
        assert_eq!(next.part, KEPT + 4);
    }
}
