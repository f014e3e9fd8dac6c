use std::{
    fs::Metadata,
    io::{Seek, SeekFrom},
    os::unix::fs::MetadataExt,
};

use sandbar_protocol::{Entry, Event, Failure, KindOfFile, MAX_BULK, Target, event, reply};
use sandbar_tree::{Base, ErrorKind, PackOptions, Symlinks, pack};

use crate::{
    failure::{self, Kind, Result, failure},
    files::{done, path, refused},
    transfer::{Broken, Link, Outgoing, lost},
};

/// Sends a regular file from an offset on: as long as it was when it was opened.
pub(crate) fn file(base: &Base, request: &Target, link: &mut Link) -> Result<()> {
    let path = path(&request.path);
    let opened = base.open_file(path, sandbar_tree::Access::Read, 0);
    let mut file = opened.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => failure(Kind::InvalidInput, error.to_string()),
        _ => refused(error),
    })?;
    let metadata = file.metadata().map_err(|error| failure::io(format!("cannot stat {path:?}"), &error))?;
    let size = metadata.len();
    if request.offset > 0 {
        file.seek(SeekFrom::Start(request.offset)).map_err(|error| failure::io(format!("cannot seek {path:?}"), &error))?;
    }
    link.answer(reply::Answer::Entry(described(&metadata)))?;
    let mut left = size.saturating_sub(request.offset);
    let mut outgoing = Outgoing::new(link);
    loop {
        let passed = match left {
            // Files of procfs and its like say that they are empty, and are read until they end.
            0 if size == 0 => outgoing.pass(&mut file, MAX_BULK),
            0 => break,
            _ => outgoing.pass_on(&mut file, usize::try_from(left).unwrap_or(MAX_BULK)),
        };
        match passed {
            Ok(0) => break,
            Ok(length) => left = left.saturating_sub(length as u64),
            Err(Broken::Shorter) => return broken(link, failure(Kind::Conflict, format!("{path:?} became shorter while it was read"))),
            Err(Broken::Source(error)) => return broken(link, failure::io(format!("cannot read {path:?}"), &error)),
            // Nobody is left to hear of it.
            Err(Broken::Connection) => return Ok(()),
        }
    }
    outgoing.finish().map_err(|error| lost(&error.into()))
}

fn described(metadata: &Metadata) -> Entry {
    Entry {
        name: Vec::new(),
        kind: KindOfFile::File as i32,
        size: metadata.len(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        symlink_target: None,
    }
}

/// Sends a directory as a tar stream.
pub(crate) fn tree(base: &Base, request: &Target, link: &mut Link) -> Result<()> {
    let path = path(&request.path);
    if request.offset > 0 {
        return Err(failure(Kind::InvalidInput, "a tar stream begins at its beginning"));
    }
    let found = base.stat(path, Symlinks::Follow).map_err(refused)?;
    if found.kind != sandbar_tree::Kind::Directory {
        return Err(failure(Kind::InvalidInput, format!("{path:?} is not a directory")));
    }
    done(link)?;
    let mut outgoing = Outgoing::new(link);
    // With the dot, what a link points to is packed.
    match pack(base, path.join("."), &mut outgoing, &PackOptions::default()) {
        Ok(_) => outgoing.finish().map_err(|error| lost(&error.into())),
        Err(error) => broken(link, refused(error)),
    }
}

/// Ends an answer that has begun.
pub(crate) fn broken(link: &mut Link, failure: Failure) -> Result<()> {
    link.say(&Event { what: Some(event::What::Failure(failure)) }).map_err(|error| lost(&error))
}
