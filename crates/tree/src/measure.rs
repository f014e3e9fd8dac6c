//! How much a tree holds and how much it occupies.

use crate::error::{Context, Error, Result};
use crate::ladder::Ladder;
use crate::metadata::{Kind, Metadata};
use crate::nofollow;
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::OsStr;

/// The weight of a tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes in regular files, as their readers see them (holes count).
    pub apparent: u64,
    /// Bytes occupied on the file system, directories and everything else included (holes do not count).
    pub allocated: u64,
    /// Files of any kind below the directory; a file with several names counts once.
    pub entries: u64,
}

/// Weighs everything below a directory, and the directory's own blocks. Follows no links, enters no mounts; what
/// vanishes meanwhile does not count.
pub fn measure(directory: impl AsFd) -> Result<Measured> {
    let root = nofollow::open_directory(directory, OsStr::new(".")).at("measure", ".")?;
    let metadata = Metadata::of(&root).at("measure", ".")?;
    let mut measured = Measured { allocated: metadata.allocated, ..Measured::default() };
    let mut linked = HashSet::new();
    let names = nofollow::names_to_pop(&root).at("measure", ".")?;
    let mut ladder = Ladder::new(root, &metadata, names);
    loop {
        let Some(name) = ladder.state().pop() else {
            match ladder.ascend().map_err(|error| Error::io("measure", ladder.path(), error))? {
                Some(_) => continue,
                None => return Ok(measured),
            }
        };
        let metadata = match Metadata::of_name(ladder.here(), &name) {
            Err(Errno::NOENT) => continue,
            described => described.map_err(|error| Error::io("measure", ladder.path().join(&name), error))?,
        };
        if metadata.kind != Kind::Directory && metadata.links > 1 && !linked.insert(metadata.identity()) {
            continue;
        }
        measured.entries += 1;
        if metadata.kind == Kind::Directory && metadata.is_mount_point(ladder.identity()) {
            continue;
        }
        measured.allocated = measured.allocated.saturating_add(metadata.allocated);
        match metadata.kind {
            Kind::File => measured.apparent = measured.apparent.saturating_add(metadata.size),
            Kind::Directory => {
                let opened = nofollow::open_directory(ladder.here(), &name);
                let directory = match opened {
                    // Replaced or removed since it was described.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    opened => opened.map_err(|error| Error::io("measure", ladder.path().join(&name), error))?,
                };
                let names = nofollow::names_to_pop(&directory).map_err(|error| Error::io("measure", ladder.path().join(&name), error))?;
                let opened = Metadata::of(&directory).at("measure", &name)?;
                ladder.descend(name, directory, &opened, names);
            }
            _ => {}
        }
    }
}
