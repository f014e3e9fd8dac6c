//! Everything below a name, removed without ever following a link.

use crate::error::{Context, Error, ErrorKind, Result};
use crate::ladder::Ladder;
use crate::metadata::{Identity, Kind, Metadata};
use crate::nofollow;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How many names are read at a time, so that a huge directory costs little memory.
const BATCH: usize = 8192;

/// How many names may resist before the whole removal is given up; the first is the one reported.
const FAILURES: usize = 1024;

/// How often in all a directory that was filled again behind our back is entered once more.
const REVISITS: u32 = 256;

/// Removes one name in a directory, and everything below it if it is a directory.
///
/// - The name is one component; a path, `.` or `..` is [`ErrorKind::InvalidPath`].
/// - Symbolic links are removed, never followed; a directory that a hostile process swaps for one meanwhile too.
/// - Any depth is fine: the walk neither recurses nor holds more than some two dozen descriptors.
/// - Directories that their owner has closed (mode 000) are opened, if that is permitted and procfs is there.
/// - Mount points are neither entered nor removed ([`ErrorKind::Busy`]).
/// - What cannot be removed does not stop the rest; the error is the first one, with the path relative to `parent`.
///
/// A process that creates files as fast as they are removed keeps this from ending: stop it first.
pub fn remove_tree(parent: impl AsFd, name: impl AsRef<OsStr>) -> Result<()> {
    let name = name.as_ref();
    let is_plain = !matches!(name.as_bytes(), b"" | b"." | b"..") && !name.as_bytes().iter().any(|byte| matches!(byte, 0 | b'/'));
    if !is_plain {
        return Err(Error::new(ErrorKind::InvalidPath, "remove", name, "not a single name"));
    }
    remove_named(parent.as_fd(), name, Path::new(name))
}

/// Removes everything in a directory, and keeps the directory; otherwise as [`remove_tree`], with paths relative to
/// the directory.
pub fn remove_contents(directory: impl AsFd) -> Result<()> {
    let root = nofollow::open_directory(directory, OsStr::new(".")).at("remove", ".")?;
    let metadata = Metadata::of(&root).at("remove", ".")?;
    Walk::new(root, &metadata, PathBuf::new()).run()
}

/// As [`remove_tree`]; errors are told under the path that the caller knows.
pub(crate) fn remove_named(parent: BorrowedFd<'_>, name: &OsStr, shown: &Path) -> Result<()> {
    match unlink(parent, name) {
        Ok(Unlinked::Gone) => return Ok(()),
        Ok(Unlinked::Directory) => {}
        Err(error) => return Err(Error::io("remove", shown, error)),
    }
    let above = Metadata::of(parent).at("remove", shown)?.identity();
    let (root, metadata) = open(parent, name, above).map_err(|error| explain(shown, error))?;
    Walk::new(root, &metadata, shown.to_owned()).run()?;
    unlinkat(parent, name, AtFlags::REMOVEDIR).at("remove", shown)
}

enum Unlinked {
    Gone,
    Directory,
}

/// Removes a name unless it is a directory.
fn unlink(parent: BorrowedFd<'_>, name: &OsStr) -> std::result::Result<Unlinked, Errno> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) => Ok(Unlinked::Gone),
        Err(Errno::ISDIR) => Ok(Unlinked::Directory),
        // POSIX's answer for a directory is EPERM; it also means what it says.
        Err(Errno::PERM) if Metadata::of_name(parent, name)?.kind == Kind::Directory => Ok(Unlinked::Directory),
        Err(error) => Err(error),
    }
}

/// Opens a directory that is to be emptied, making it readable if its owner has closed it.
fn open(parent: BorrowedFd<'_>, name: &OsStr, above: Identity) -> std::result::Result<(OwnedFd, Metadata), Errno> {
    let directory = nofollow::open_closed_directory(parent, name)?;
    let metadata = Metadata::of(&directory)?;
    if metadata.is_mount_point(above) {
        return Err(Errno::BUSY);
    }
    Ok((directory, metadata))
}

fn explain(path: &Path, error: Errno) -> Error {
    match error {
        Errno::BUSY => Error::new(ErrorKind::Busy, "remove", path, "something is mounted there"),
        _ => Error::io("remove", path, error),
    }
}

#[derive(Default)]
struct Emptying {
    batch: Vec<OsString>,
    resisting: HashSet<OsString>,
    unlocked: bool,
}

struct Walk {
    ladder: Ladder<Emptying>,
    shown: PathBuf,
    first: Option<Error>,
    failures: usize,
    revisits: u32,
}

impl Walk {
    fn new(root: OwnedFd, metadata: &Metadata, shown: PathBuf) -> Self {
        let ladder = Ladder::new(root, metadata, Emptying::default());
        Self { ladder, shown, first: None, failures: 0, revisits: 0 }
    }

    fn run(mut self) -> Result<()> {
        loop {
            if self.failures > FAILURES {
                break;
            }
            if let Some(name) = self.next_name()? {
                self.take(name);
                continue;
            }
            let spoilt = !self.ladder.state().resisting.is_empty();
            let Some((name, _)) = self.ladder.ascend().map_err(|error| moved(&self.here(), error))? else { break };
            if spoilt {
                // Its error is told already; it cannot be empty.
                self.ladder.state().resisting.insert(name);
            } else {
                self.take_emptied(name);
            }
        }
        self.first.map_or(Ok(()), Err)
    }

    fn next_name(&mut self) -> Result<Option<OsString>> {
        if let Some(name) = self.ladder.state().batch.pop() {
            return Ok(Some(name));
        }
        let resisting = std::mem::take(&mut self.ladder.state().resisting);
        let names = nofollow::names(self.ladder.here(), BATCH, |name| resisting.contains(name));
        let names = names.map_err(|error| Error::io("remove", self.here(), error))?;
        let state = self.ladder.state();
        state.resisting = resisting;
        state.batch = names;
        Ok(state.batch.pop())
    }

    fn take(&mut self, name: OsString) {
        let done = self.retry_unlocked(|here| unlink(here, &name));
        match done {
            Ok(Unlinked::Gone) | Err(Errno::NOENT) => {}
            Ok(Unlinked::Directory) => match open(self.ladder.here(), &name, self.ladder.identity()) {
                Ok((directory, metadata)) => self.ladder.descend(name, directory, &metadata, Emptying::default()),
                Err(error) => self.missed(name, error),
            },
            Err(error) => self.resist(name, error),
        }
    }

    fn take_emptied(&mut self, name: OsString) {
        match self.retry_unlocked(|here| unlinkat(here, &name, AtFlags::REMOVEDIR)) {
            Ok(()) => {}
            Err(error) => self.missed(name, error),
        }
    }

    /// A directory was not there, not a directory, or not empty any more: somebody works against us, or is just busy.
    fn missed(&mut self, name: OsString, error: Errno) {
        match error {
            Errno::NOENT => {}
            Errno::NOTDIR | Errno::LOOP | Errno::NOTEMPTY | Errno::EXIST if self.revisits < REVISITS => {
                self.revisits += 1;
                self.ladder.state().batch.push(name);
            }
            _ => self.resist(name, error),
        }
    }

    fn retry_unlocked<T>(&mut self, act: impl Fn(BorrowedFd<'_>) -> std::result::Result<T, Errno>) -> std::result::Result<T, Errno> {
        match act(self.ladder.here()) {
            Err(Errno::ACCESS) if !self.ladder.state().unlocked => {
                self.ladder.state().unlocked = true;
                nofollow::unlock(self.ladder.here())?;
                act(self.ladder.here())
            }
            done => done,
        }
    }

    fn resist(&mut self, name: OsString, error: Errno) {
        self.failures += 1;
        if self.first.is_none() {
            self.first = Some(explain(&self.here().join(&name), error));
        }
        self.ladder.state().resisting.insert(name);
    }

    fn here(&self) -> PathBuf {
        let below = self.ladder.path();
        // Joining an empty path would leave a slash at the end.
        if below.as_os_str().is_empty() { self.shown.clone() } else { self.shown.join(below) }
    }
}

fn moved(path: &Path, error: Errno) -> Error {
    match error {
        Errno::STALE => Error::new(ErrorKind::Changed, "remove", path, "directory was moved while it was emptied"),
        _ => Error::io("remove", path, error),
    }
}
