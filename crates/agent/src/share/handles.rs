use std::{collections::HashMap, os::fd::OwnedFd};

use rustix::{
    io::Errno,
    process::{Resource, Rlimit},
};

/// What else is open at a time: the volume, the connection, what is looked at for a moment.
const SPARE: u64 = 64;
/// Most that one guest has open, whatever this process may.
const MOST: u64 = 65_536;

/// What is open, by numbers that are never used twice.
pub(super) struct Handles {
    open: HashMap<u64, (u64, OwnedFd)>,
    next: u64,
    most: usize,
}

impl Handles {
    /// As many as this process may have.
    pub(super) fn new() -> Self {
        let own = rustix::process::getrlimit(Resource::Nofile);
        let _ = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: own.maximum, maximum: own.maximum });
        let most = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(MOST).saturating_sub(SPARE).min(MOST);
        Self { open: HashMap::new(), next: 1, most: usize::try_from(most).unwrap_or(0) }
    }

    /// Keeps something open of a node; its number.
    pub(super) fn keep(&mut self, node: u64, file: OwnedFd) -> Result<u64, Errno> {
        if self.open.len() >= self.most {
            return Err(Errno::NFILE);
        }
        let number = self.next;
        self.next += 1;
        self.open.insert(number, (node, file));
        Ok(number)
    }

    pub(super) fn get(&self, number: u64) -> Result<&OwnedFd, Errno> {
        self.open.get(&number).map(|(_, file)| file).ok_or(Errno::BADF)
    }

    /// Closes it; the node that it was of.
    pub(super) fn close(&mut self, number: u64) -> Option<u64> {
        self.open.remove(&number).map(|(node, _)| node)
    }
}
