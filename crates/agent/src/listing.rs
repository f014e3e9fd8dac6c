use sandbar_protocol::{DirEntries, Entry, ReadDir, reply};
use sandbar_tree::Base;

use crate::{
    failure::Result,
    files::{entry, path, refused},
    transfer::Link,
};

/// Entries in one message: with the longest names and links it is still under the limit of a message.
const BATCH: usize = 512;
/// Most entries that are held to be sorted. A directory of more comes sorted in parts of this size.
const SORTED: usize = 32 << 10;

/// Sends the entries of a directory.
pub(crate) fn read_dir(base: &Base, request: &ReadDir, link: &mut Link) -> Result<()> {
    let mut held: Vec<Entry> = Vec::new();
    for found in base.read_dir(path(&request.path)).map_err(refused)? {
        let found = found.map_err(refused)?;
        held.push(entry(&found.name, &found.metadata, found.target.as_deref()));
        if held.len() >= SORTED {
            send(std::mem::take(&mut held), false, link)?;
        }
    }
    send(held, true, link)
}

fn send(mut entries: Vec<Entry>, last: bool, link: &mut Link) -> Result<()> {
    entries.sort_unstable_by(|first, second| first.name.cmp(&second.name));
    let mut rest = entries.into_iter().peekable();
    loop {
        let entries: Vec<_> = rest.by_ref().take(BATCH).collect();
        let is_end = rest.peek().is_none();
        if !entries.is_empty() || last {
            link.answer(reply::Answer::Entries(DirEntries { entries, last: last && is_end }))?;
        }
        if is_end {
            return Ok(());
        }
    }
}
