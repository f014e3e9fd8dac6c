//! One tree duplicated as it is: for the writable layer of a fork or a checkpoint.

use crate::content;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ladder::Ladder;
use crate::metadata::{Identity, Kind, Metadata, Time};
use crate::xattr::{Attributes, CAPABILITY};
use crate::{nofollow, system};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Names made, of any kind, the root of the tree aside.
    pub entries: u64,
    /// Regular files among them; a file with several names counts once.
    pub files: u64,
    /// Bytes in those files, as their readers see them (holes count).
    pub bytes: u64,
}

/// Copies everything in one directory to another, empty one, on the same file system or not, and gives the other the
/// first one's own metadata.
///
/// - Kept: owner, mode, both times to the nanosecond, extended attributes of every namespace that may be read and
///   written (overlay marks included), hard links within the tree, symbolic links, pipes, devices, whiteouts, holes.
/// - Left out: sockets, what is mounted below, what vanishes meanwhile, and attributes of the `security` namespace
///   other than capabilities where the destination does not take them.
/// - File data is shared (`FICLONE`) where the file system can, else copied in the kernel.
/// - Links are never followed on either side. On an error the destination is left half made.
///
/// Errors name the path relative to the source. A destination that is not empty is
/// [`ErrorKind::DirectoryNotEmpty`]; one inside the source is [`ErrorKind::InvalidPath`].
pub fn copy_tree(from: impl AsFd, to: impl AsFd) -> Result<Copied> {
    let here = OsStr::new(".");
    let from = nofollow::open_directory(from, here).at("copy", ".")?;
    let to = nofollow::open_directory(to, here).at("copy to", ".")?;
    let from_metadata = Metadata::of(&from).at("copy", ".")?;
    let to_metadata = Metadata::of(&to).at("copy to", ".")?;
    if from_metadata.identity() == to_metadata.identity() {
        return Err(inside(Path::new(".")));
    }
    if !nofollow::names(&to, 1, |_| false).at("copy to", ".")?.is_empty() {
        return Err(Error::new(ErrorKind::DirectoryNotEmpty, "copy to", ".", "the destination is not empty"));
    }
    let names = nofollow::names_to_pop(&from).at("copy", ".")?;
    let root = to.try_clone().map_err(|error| Error::io("copy to", ".", error))?;
    let copying = Copying {
        from: Ladder::new(from, &from_metadata, Level { names, metadata: from_metadata }),
        to: Ladder::new(to, &to_metadata, ()),
        root,
        root_identity: to_metadata.identity(),
        linked: HashMap::new(),
        copied: Copied::default(),
    };
    copying.run()
}

struct Level {
    names: Vec<OsString>,
    metadata: Metadata,
}

struct Copying {
    from: Ladder<Level>,
    to: Ladder<()>,
    root: OwnedFd,
    root_identity: Identity,
    /// Files with several names, and where their first one is.
    linked: HashMap<Identity, PathBuf>,
    copied: Copied,
}

impl Copying {
    fn run(mut self) -> Result<Copied> {
        loop {
            if let Some(name) = self.from.state().names.pop() {
                let done = self.entry(&name);
                match done {
                    Ok(()) | Err(Failure::Kernel(Errno::NOENT)) => {}
                    Err(Failure::Kernel(error)) => return Err(Error::io("copy", self.path(&name), error)),
                    Err(Failure::Told(error)) => return Err(error),
                }
                continue;
            }
            let left = self.finish_directory().and_then(|()| {
                self.to.ascend()?;
                self.from.ascend()
            });
            if left.map_err(|error| Error::io("copy", self.from.path(), error))?.is_none() {
                return Ok(self.copied);
            }
        }
    }

    fn path(&self, name: &OsStr) -> PathBuf {
        self.from.path().join(name)
    }

    fn entry(&mut self, name: &OsStr) -> std::result::Result<(), Failure> {
        let metadata = Metadata::of_name(self.from.here(), name)?;
        if metadata.kind == Kind::Socket {
            return Ok(());
        }
        if metadata.kind == Kind::Directory {
            return self.directory(name, &metadata);
        }
        if metadata.links > 1
            && let Some(first) = self.linked.get(&metadata.identity())
        {
            link(&self.root, first, self.to.here(), name)?;
            self.copied.entries += 1;
            return Ok(());
        }
        match metadata.kind {
            Kind::File => self.file(name)?,
            Kind::Symlink => {
                let target = rustix::fs::readlinkat(self.from.here(), name, Vec::new())?;
                made(rustix::fs::symlinkat(target, self.to.here(), name))?;
                self.finish_held(name, &metadata)?;
            }
            kind => {
                let (file_type, device) = special(kind).ok_or(Errno::OPNOTSUPP)?;
                let mode = Mode::RUSR | Mode::WUSR;
                made(system::mknodat(self.to.here(), name, file_type, mode, device))?;
                self.finish_held(name, &metadata)?;
            }
        }
        if metadata.links > 1 {
            let path = self.path(name);
            self.linked.insert(metadata.identity(), path);
        }
        self.copied.entries += 1;
        Ok(())
    }

    fn directory(&mut self, name: &OsStr, metadata: &Metadata) -> std::result::Result<(), Failure> {
        let mounted = metadata.is_mount_point(self.from.identity());
        let from = match nofollow::open_directory(self.from.here(), name) {
            // Replaced since it was described: as good as vanished.
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            opened => opened?,
        };
        let metadata = Metadata::of(&from)?;
        if metadata.identity() == self.root_identity {
            return Err(Failure::Told(inside(&self.path(name))));
        }
        made(rustix::fs::mkdirat(self.to.here(), name, Mode::RWXU))?;
        let to = nofollow::open_directory(self.to.here(), name).map_err(unexpected)?;
        let to_metadata = Metadata::of(&to)?;
        let names = if mounted { Vec::new() } else { nofollow::names_to_pop(&from)? };
        self.from.descend(name.to_owned(), from, &metadata, Level { names, metadata });
        self.to.descend(name.to_owned(), to, &to_metadata, ());
        self.copied.entries += 1;
        Ok(())
    }

    fn file(&mut self, name: &OsStr) -> std::result::Result<(), Failure> {
        let from = match nofollow::open_for_reading(self.from.here(), name) {
            Err(Errno::LOOP | Errno::NXIO) => return Ok(()),
            opened => opened?,
        };
        let metadata = Metadata::of(&from)?;
        if metadata.kind != Kind::File {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let to = made(rustix::fs::openat(self.to.here(), name, flags, Mode::RUSR | Mode::WUSR))?;
        content::copy(from.as_fd(), to.as_fd(), metadata.size)?;
        finish(from.as_fd(), to.as_fd(), &metadata)?;
        self.copied.files += 1;
        self.copied.bytes = self.copied.bytes.saturating_add(metadata.size);
        Ok(())
    }

    fn finish_directory(&mut self) -> std::result::Result<(), Errno> {
        let metadata = self.from.state().metadata;
        finish(self.from.here(), self.to.here(), &metadata)
    }

    /// Gives owner, attributes, mode and times to what is not opened: links, pipes, devices.
    fn finish_held(&self, name: &OsStr, metadata: &Metadata) -> std::result::Result<(), Failure> {
        let to = nofollow::hold(self.to.here(), name).map_err(unexpected)?;
        own(to.as_fd(), metadata)?;
        let from = nofollow::hold(self.from.here(), name)?;
        match (Attributes::of_held(&from), Attributes::of_held(&to)) {
            (Ok(from), Ok(to)) => attributes(&from, &to)?,
            // Without procfs these have no attributes that can be reached.
            (Err(Errno::NOSYS), _) | (_, Err(Errno::NOSYS)) => {}
            (Err(error), _) | (_, Err(error)) => return Err(error.into()),
        }
        // A link has none of its own.
        if metadata.kind != Kind::Symlink {
            system::chmod(to.as_fd(), system::mode(metadata.mode))?;
        }
        let times = Timestamps { last_access: moment(metadata.atime), last_modification: moment(metadata.mtime) };
        rustix::fs::utimensat(self.to.here(), name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(unexpected)?;
        Ok(())
    }
}

enum Failure {
    /// Of the entry at hand; `ENOENT` means that the source vanished.
    Kernel(Errno),
    /// Already an error with a path.
    Told(Error),
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Kernel(error)
    }
}

/// What is missing in the destination has not "vanished": nobody else should be there.
fn unexpected(error: Errno) -> Errno {
    match error {
        Errno::NOENT | Errno::EXIST => Errno::STALE,
        _ => error,
    }
}

fn made<T>(result: std::result::Result<T, Errno>) -> std::result::Result<T, Errno> {
    result.map_err(unexpected)
}

fn inside(path: &Path) -> Error {
    Error::new(ErrorKind::InvalidPath, "copy", path, "the destination lies inside the source")
}

/// Another name for a file that was copied before. The way there is walked without following links.
fn link(root: &OwnedFd, first: &Path, parent: BorrowedFd<'_>, name: &OsStr) -> std::result::Result<(), Errno> {
    let (Some(first_name), Some(before)) = (first.file_name(), first.parent()) else { return Err(Errno::STALE) };
    let directory = nofollow::enter(root, before.iter()).map_err(unexpected)?;
    made(rustix::fs::linkat(directory, first_name, parent, name, AtFlags::empty()))
}

pub(crate) fn special(kind: Kind) -> Option<(FileType, u64)> {
    match kind {
        Kind::Fifo => Some((FileType::Fifo, 0)),
        Kind::CharDevice { major, minor } => Some((FileType::CharacterDevice, system::device(major, minor))),
        Kind::BlockDevice { major, minor } => Some((FileType::BlockDevice, system::device(major, minor))),
        Kind::File | Kind::Directory | Kind::Symlink | Kind::Socket => None,
    }
}

/// In this order: changing the owner drops capabilities and setuid; attributes need a mode that still lets us write.
fn finish(from: BorrowedFd<'_>, to: BorrowedFd<'_>, metadata: &Metadata) -> std::result::Result<(), Errno> {
    own(to, metadata)?;
    attributes(&Attributes::of(&from), &Attributes::of(&to))?;
    rustix::fs::fchmod(to, system::mode(metadata.mode))?;
    let times = Timestamps { last_access: moment(metadata.atime), last_modification: moment(metadata.mtime) };
    rustix::fs::futimens(to, &times)
}

fn own(to: BorrowedFd<'_>, metadata: &Metadata) -> std::result::Result<(), Errno> {
    let made = Metadata::of(to)?;
    if (made.uid, made.gid) == (metadata.uid, metadata.gid) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    system::chown(to, Some(uid), Some(gid))
}

fn attributes(from: &Attributes<'_>, to: &Attributes<'_>) -> std::result::Result<(), Errno> {
    for name in from.names()? {
        let Some(value) = from.value(&name)? else { continue };
        match to.set(&name, &value) {
            // Labels of a security module, which the destination's policy gives by itself.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) if name.starts_with(b"security.") && name != CAPABILITY => {}
            set => set?,
        }
    }
    Ok(())
}

pub(crate) fn moment(time: Time) -> Timespec {
    Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }
}
