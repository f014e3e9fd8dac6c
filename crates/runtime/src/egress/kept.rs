use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::{NetworkEvent, NetworkRecord};

/// The file in the sandbox's folder.
const FILE: &str = "network.log.first";
/// What becomes that file.
const NEW: &str = "network.log.first.new";
/// Bytes of each kind of events: some 600 lines.
const MOST: usize = 256 << 10;

/// What makes a line another one than those before: all but when, by which process, how many bytes, and which of a name's addresses.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Fact {
    event: NetworkEvent,
    protocol: String,
    name: Option<String>,
    address: Option<IpAddr>,
    port: Option<u16>,
    rule: Option<String>,
    reason: String,
}

impl Fact {
    fn of(record: &NetworkRecord) -> Self {
        Self {
            event: record.event,
            protocol: record.protocol.clone(),
            name: record.name.clone(),
            address: record.address.filter(|_| record.name.is_none()),
            port: record.port,
            rule: record.rule.clone(),
            reason: record.reason.clone(),
        }
    }
}

/// The first line of each fact among those that have left the log, oldest first: each kind of events has a share of its own, in which what came first stays. So
/// nobody inside washes away what he did before by asking for more; who asks for much first can fill a share, and wash away what comes later.
pub(super) fn read(folder: &Path) -> io::Result<Vec<NetworkRecord>> {
    match fs::read(folder.join(FILE)) {
        // A machine that lost its power may have left half a line.
        Ok(text) => Ok(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Keeps of lines that leave the log those that tell something new, as long as their kind has room. When it fails, what was kept before is still there.
pub(super) fn keep(folder: &Path, leaving: &[NetworkRecord]) -> io::Result<()> {
    let mut kept = Kept::default();
    for record in read(folder)? {
        kept.add(&record)?;
    }
    let before = kept.lines.len();
    for record in leaving {
        if kept.used.get(&record.event).is_none_or(|used| *used < MOST) {
            kept.add(record)?;
        }
    }
    if kept.lines.len() == before {
        return Ok(());
    }
    let new = folder.join(NEW);
    OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&new)?.write_all(&kept.lines)?;
    fs::rename(new, folder.join(FILE))
}

#[derive(Default)]
struct Kept {
    known: BTreeSet<Fact>,
    /// Bytes of each kind.
    used: BTreeMap<NetworkEvent, usize>,
    lines: Vec<u8>,
}

impl Kept {
    fn add(&mut self, record: &NetworkRecord) -> io::Result<()> {
        if !self.known.insert(Fact::of(record)) {
            return Ok(());
        }
        let begin = self.lines.len();
        serde_json::to_writer(&mut self.lines, record)?;
        self.lines.push(b'\n');
        *self.used.entry(record.event).or_default() += self.lines.len() - begin;
        Ok(())
    }
}
