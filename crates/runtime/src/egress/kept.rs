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
/// Bytes of each kind of events: some thousand lines.
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

/// The first line of each fact among those that have left the log, oldest first. So nobody inside washes away what he did before by asking for more: each kind
/// of events has a share of its own, in which what came first stays.
pub(super) fn read(folder: &Path) -> io::Result<Vec<NetworkRecord>> {
    match fs::read(folder.join(FILE)) {
        // A machine that lost its power may have left half a line.
        Ok(text) => Ok(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Keeps of lines that leave the log those that tell something new, as long as their kind has room.
pub(super) fn keep(folder: &Path, leaving: &[NetworkRecord]) -> io::Result<()> {
    let (mut known, mut used) = (BTreeSet::new(), BTreeMap::<NetworkEvent, usize>::new());
    for record in read(folder)? {
        *used.entry(record.event).or_default() += serde_json::to_vec(&record)?.len() + 1;
        known.insert(Fact::of(&record));
    }
    let mut lines = Vec::new();
    for record in leaving {
        let used = used.entry(record.event).or_default();
        if *used >= MOST || !known.insert(Fact::of(record)) {
            continue;
        }
        let begin = lines.len();
        serde_json::to_writer(&mut lines, record)?;
        lines.push(b'\n');
        *used += lines.len() - begin;
    }
    if lines.is_empty() {
        return Ok(());
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join(FILE))?.write_all(&lines)
}
