//! What a directory holds.

use crate::error::{Context, Result};
use crate::metadata::{Kind, Metadata};
use rustix::fd::OwnedFd;
use rustix::fs::{Dir, readlinkat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name, one component.
    pub name: OsString,
    /// What it is; a symbolic link is described, not followed.
    pub metadata: Metadata,
    /// Where a symbolic link points, as text; it may be anything.
    pub target: Option<PathBuf>,
}

/// The entries of a directory, in the order of the file system, without `.` and `..`.
///
/// Reads as it goes: a directory of millions of entries costs no memory. Entries that vanish meanwhile are left out.
#[derive(Debug)]
pub struct ReadDir {
    stream: Dir,
    path: PathBuf,
}

impl ReadDir {
    /// Reads from a directory opened for reading; the path is for errors.
    pub(crate) fn new(directory: OwnedFd, path: PathBuf) -> Result<Self> {
        let stream = Dir::new(directory).at("list", &path)?;
        Ok(Self { stream, path })
    }

    fn describe(&self, name: &OsStr) -> std::result::Result<DirEntry, Errno> {
        let directory = self.stream.fd()?;
        let metadata = Metadata::of_name(directory, name)?;
        let target = match metadata.kind {
            Kind::Symlink => Some(readlinkat(directory, name, Vec::new())?),
            _ => None,
        };
        let target = target.map(|target| OsString::from_vec(target.into_bytes()).into());
        Ok(DirEntry { name: name.to_owned(), metadata, target })
    }
}

impl Iterator for ReadDir {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.stream.read()? {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error).at("list", &self.path)),
            };
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." {
                continue;
            }
            match self.describe(name) {
                // Gone, or no longer the link it was a moment ago.
                Err(Errno::NOENT | Errno::INVAL) => {}
                described => return Some(described.at("stat", self.path.join(name))),
            }
        }
    }
}
