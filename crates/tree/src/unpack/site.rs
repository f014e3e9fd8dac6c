//! The directory that an archive is unpacked into: every step by descriptor, one name at a time, following no link.

use super::options::{Owner, UnpackOptions, Whiteouts};
use crate::archive::Archive;
use crate::copy::{moment, special};
use crate::entry_path::EntryPath;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::metadata::{Identity, Kind, Metadata, Time};
use crate::record::Record;
use crate::xattr::{Attributes, CAPABILITY, OverlayNamespace, is_overlay};
use crate::{nofollow, remove, system};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// How often a name is cleared and taken again while somebody else keeps filling it.
const TRIES: u32 = 32;

/// How many bytes of directory names may wait for the end of the archive, where directories get their metadata.
const WAITING_BYTES: usize = 256 << 20;

/// Bytes moved at a time.
const CHUNK: usize = 128 * 1024;

type Kernel<T> = std::result::Result<T, Errno>;

/// Where an archive is unpacked.
pub(super) struct Site<'options> {
    root: OwnedFd,
    options: &'options UnpackOptions,
    /// The directory of the last entry: the next one is mostly in the same.
    last: Option<(Vec<OsString>, Rc<OwnedFd>)>,
    waiting: Vec<Waiting>,
    waiting_bytes: usize,
    buffer: Vec<u8>,
    skipped: u64,
}

/// A directory whose owner, mode and time are still to be set.
struct Waiting {
    names: Vec<OsString>,
    identity: Identity,
    owner: Option<(Uid, Gid)>,
    mode: Mode,
    mtime: Time,
}

impl<'options> Site<'options> {
    pub(super) fn new(into: BorrowedFd<'_>, options: &'options UnpackOptions) -> Result<Self> {
        let root = nofollow::open_directory(into, OsStr::new(".")).at("unpack", ".")?;
        Ok(Self { root, options, last: None, waiting: Vec::new(), waiting_bytes: 0, buffer: vec![0; CHUNK], skipped: 0 })
    }

    pub(super) fn options(&self) -> &'options UnpackOptions {
        self.options
    }

    /// The root's own entry.
    pub(super) fn root(&mut self, record: &Record) -> Result<()> {
        let root = self.root.try_clone().map_err(|error| Error::io("unpack", ".", error))?;
        self.entered(&root, &[], record, false)
    }

    /// A directory; one that is there is kept.
    pub(super) fn directory(&mut self, path: &EntryPath, before: &[OsString], name: &OsStr, record: &Record) -> Result<()> {
        let shown = path.to_path();
        let parent = self.parent(before)?;
        let mut hidden_below = false;
        for _ in 0..TRIES {
            match rustix::fs::mkdirat(&*parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(Error::io("unpack", shown, error)),
            }
            match nofollow::open_closed_directory(&*parent, name) {
                Ok(directory) => return self.entered(&directory, path.names(), record, hidden_below),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    hidden_below |= self.is_layer_whiteout(&parent, name).at("unpack", &shown)?;
                    self.clear(&parent, name, &shown)?;
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(Error::io("unpack", shown, error)),
            }
        }
        Err(contended(&shown))
    }

    fn entered(&mut self, directory: &OwnedFd, names: &[OsString], record: &Record, opaque: bool) -> Result<()> {
        let shown = || names.iter().collect::<PathBuf>();
        // The archive's own mode comes at the end; until then a directory that was closed before must take things.
        match nofollow::unlock(directory) {
            Ok(()) | Err(Errno::ACCESS) => {}
            Err(error) => return Err(Error::io("unpack", shown(), error)),
        }
        if opaque {
            self.set_opaque(directory).at("unpack", shown())?;
        }
        self.attributes(directory, record, Kind::Directory).at("unpack", shown())?;
        let identity = Metadata::of(directory).at("unpack", shown())?.identity();
        self.waiting_bytes += names.iter().map(|name| name.len() + size_of::<OsString>()).sum::<usize>();
        if self.waiting_bytes > WAITING_BYTES {
            let reason = "the names of the archive's directories take too much memory";
            return Err(Error::new(ErrorKind::LimitExceeded, "unpack", shown(), reason));
        }
        self.waiting.push(Waiting {
            names: names.to_vec(),
            identity,
            owner: self.owner(record).map_err(|reason| Error::new(ErrorKind::Malformed, "unpack", shown(), reason))?,
            mode: self.mode(record),
            mtime: record.mtime,
        });
        Ok(())
    }

    /// A regular file with the archive's next bytes in it.
    pub(super) fn file<Input: Read>(
        &mut self,
        shown: &Path,
        before: &[OsString],
        name: &OsStr,
        record: &Record,
        archive: &mut Archive<Input>,
    ) -> Result<()> {
        let parent = self.parent(before)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = self.make(&parent, name, shown, || rustix::fs::openat(&*parent, name, flags, mode))?;
        let mut file = File::from(file);
        loop {
            let read = archive.read(&mut self.buffer)?;
            if read == 0 {
                break;
            }
            file.write_all(&self.buffer[..read]).at("unpack", shown)?;
        }
        let owner = self.owner(record).map_err(|reason| Error::new(ErrorKind::Malformed, "unpack", shown, reason))?;
        // In this order: a new owner drops capabilities and setuid, and attributes need a mode that lets us write.
        own(file.as_fd(), owner).at("unpack", shown)?;
        self.attributes(&file, record, Kind::File).at("unpack", shown)?;
        rustix::fs::fchmod(&file, self.mode(record)).at("unpack", shown)?;
        rustix::fs::futimens(&file, &modified(record.mtime)).at("unpack", shown)
    }

    /// A symbolic link; its text may be anything, since nothing here follows it.
    pub(super) fn symlink(&mut self, shown: &Path, before: &[OsString], name: &OsStr, record: &Record) -> Result<()> {
        if record.link.is_empty() || record.link.contains(&0) {
            let reason = "symbolic link without a target";
            return Err(Error::new(ErrorKind::Malformed, "unpack", shown, reason));
        }
        let parent = self.parent(before)?;
        let target = record.link.as_slice();
        self.make(&parent, name, shown, || rustix::fs::symlinkat(target, &*parent, name))?;
        self.finish_held(&parent, name, shown, record, Kind::Symlink)
    }

    /// A pipe or a device.
    pub(super) fn special(&mut self, shown: &Path, before: &[OsString], name: &OsStr, record: &Record, kind: Kind) -> Result<()> {
        let Some((file_type, device)) = special(kind) else {
            return Err(Error::new(ErrorKind::Unsupported, "unpack", shown, "entries of this type are not supported"));
        };
        if kind != Kind::Fifo && !self.options.devices {
            return Err(Error::new(ErrorKind::Refused, "unpack", shown, "devices are refused"));
        }
        let parent = self.parent(before)?;
        let mode = Mode::RUSR | Mode::WUSR;
        self.make(&parent, name, shown, || system::mknodat(&*parent, name, file_type, mode, device))?;
        self.finish_held(&parent, name, shown, record, kind)
    }

    /// Another name for something below the root. Its metadata are the other name's.
    pub(super) fn hard_link(&mut self, shown: &Path, before: &[OsString], name: &OsStr, target: &EntryPath) -> Result<()> {
        let refuse = |kind, reason| Err(Error::new(kind, "unpack", shown, reason));
        let Some((target_before, target_name)) = target.split() else {
            return refuse(ErrorKind::Refused, "hard link to the root");
        };
        let found = nofollow::enter(&self.root, target_before.iter().map(OsString::as_os_str))
            .and_then(|directory| Metadata::of_name(&directory, target_name).map(|metadata| (directory, metadata)));
        let (directory, metadata) = match found {
            Ok(found) => found,
            Err(Errno::NOENT) => return refuse(ErrorKind::Malformed, "hard link to something that is not there"),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return refuse(ErrorKind::Refused, "hard link over something that is not a directory");
            }
            Err(error) => return Err(Error::io("unpack", shown, error)),
        };
        if metadata.kind == Kind::Directory {
            return refuse(ErrorKind::Refused, "hard link to a directory");
        }
        let parent = self.parent(before)?;
        if Metadata::of_name(&*parent, name).is_ok_and(|there| there.identity() == metadata.identity()) {
            return Ok(());
        }
        // Without AT_SYMLINK_FOLLOW a link is named itself, and what it points to is left alone.
        self.make(&parent, name, shown, || rustix::fs::linkat(&directory, target_name, &*parent, name, AtFlags::empty()))
    }

    /// Hides a name of the layers below.
    pub(super) fn whiteout(&mut self, before: &[OsString], hidden: &OsStr) -> Result<()> {
        let shown = before.iter().map(OsString::as_os_str).chain([hidden]).collect::<PathBuf>();
        let parent = self.parent(before)?;
        for _ in 0..TRIES {
            match system::mknodat(&*parent, hidden, FileType::CharacterDevice, Mode::empty(), system::device(0, 0)) {
                Err(Errno::EXIST) => {}
                done => return done.at("unpack", &shown),
            }
            match nofollow::open_directory(&*parent, hidden) {
                Ok(directory) => return self.set_opaque(&directory).at("unpack", &shown),
                // The layer's own; that alone hides what is below.
                Err(Errno::NOTDIR | Errno::LOOP) => return Ok(()),
                Err(Errno::NOENT) => {}
                Err(error) => return Err(Error::io("unpack", shown, error)),
            }
        }
        Err(contended(&shown))
    }

    /// Hides everything that the layers below have in a directory.
    pub(super) fn opaque(&mut self, before: &[OsString], namespace: OverlayNamespace) -> Result<()> {
        let shown = before.iter().collect::<PathBuf>();
        let parent = self.parent(before)?;
        let directory = nofollow::open_directory(&*parent, OsStr::new(".")).at("unpack", &shown)?;
        Attributes::of(&directory).set(namespace.opaque(), b"y").at("unpack", &shown)
    }

    /// Gives directories what had to wait, the deepest first, and tells how many attributes were dropped.
    pub(super) fn finish(mut self) -> Result<u64> {
        // Stable: of two entries for one directory, the later one has the last word.
        self.waiting.sort_by_key(|waiting| std::cmp::Reverse(waiting.names.len()));
        for waiting in &self.waiting {
            let names = waiting.names.iter().map(OsString::as_os_str);
            let done = nofollow::enter(&self.root, names).and_then(|held| {
                if Metadata::of(&held)?.identity() != waiting.identity {
                    return Ok(());
                }
                let directory = nofollow::open_directory(&held, OsStr::new("."))?;
                own(directory.as_fd(), waiting.owner)?;
                rustix::fs::fchmod(&directory, waiting.mode)?;
                rustix::fs::futimens(&directory, &modified(waiting.mtime))
            });
            match done {
                // Replaced, by a later entry or by somebody else.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return Err(Error::io("unpack", waiting.names.iter().collect::<PathBuf>(), error)),
            }
        }
        Ok(self.skipped)
    }

    /// The directory that an entry goes into; missing ones are made.
    fn parent(&mut self, names: &[OsString]) -> Result<Rc<OwnedFd>> {
        if let Some((last, directory)) = &self.last
            && last == names
        {
            return Ok(Rc::clone(directory));
        }
        let mut here = nofollow::enter_directory(&self.root, OsStr::new(".")).at("unpack", ".")?;
        for (depth, name) in names.iter().enumerate() {
            here = self.enter(&here, name, || names[..=depth].iter().collect())?;
        }
        let directory = Rc::new(here);
        self.last = Some((names.to_vec(), Rc::clone(&directory)));
        Ok(directory)
    }

    fn enter(&mut self, parent: &OwnedFd, name: &OsStr, shown: impl Fn() -> PathBuf) -> Result<OwnedFd> {
        let mut made = false;
        let mut hidden_below = false;
        for _ in 0..TRIES {
            match nofollow::enter_directory(parent, name) {
                Ok(directory) => {
                    if made {
                        own(directory.as_fd(), self.fixed_owner()).at("unpack", shown())?;
                    }
                    if hidden_below {
                        let directory = nofollow::open_directory(&directory, OsStr::new(".")).at("unpack", shown())?;
                        self.set_opaque(&directory).at("unpack", shown())?;
                    }
                    return Ok(directory);
                }
                Err(Errno::NOENT) => match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => made = true,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(Error::io("unpack", shown(), error)),
                },
                Err(Errno::NOTDIR | Errno::LOOP) => match Metadata::of_name(parent, name).map(|found| found.kind) {
                    Ok(Kind::Symlink) => {
                        let reason = "a parent is a symbolic link, and links are not followed";
                        return Err(Error::new(ErrorKind::Refused, "unpack", shown(), reason));
                    }
                    Ok(Kind::Directory) | Err(Errno::NOENT) => {}
                    Ok(_) => {
                        hidden_below |= self.is_layer_whiteout(parent, name).at("unpack", shown())?;
                        self.clear(parent, name, &shown())?;
                    }
                    Err(error) => return Err(Error::io("unpack", shown(), error)),
                },
                Err(error) => return Err(Error::io("unpack", shown(), error)),
            }
        }
        Err(contended(&shown()))
    }

    /// Makes something under a name that is freed first if it is taken.
    fn make<T>(&mut self, parent: &OwnedFd, name: &OsStr, shown: &Path, act: impl Fn() -> Kernel<T>) -> Result<T> {
        for _ in 0..TRIES {
            match act() {
                Err(Errno::EXIST) => self.clear(parent, name, shown)?,
                done => return done.at("unpack", shown),
            }
        }
        Err(contended(shown))
    }

    /// Removes what has a name, whatever it is.
    fn clear(&mut self, parent: &OwnedFd, name: &OsStr, shown: &Path) -> Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(Error::io("unpack", shown, error)),
        }
        // The directory remembered may be in there.
        self.last = None;
        match remove::remove_named(parent.as_fd(), name, shown) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Owner, mode and time of what is not opened. It is held first, so that it is certain what they are given to.
    fn finish_held(&self, parent: &OwnedFd, name: &OsStr, shown: &Path, record: &Record, kind: Kind) -> Result<()> {
        let held = nofollow::hold(parent, name).at("unpack", shown)?;
        if Metadata::of(&held).at("unpack", shown)?.kind != kind {
            return Err(contended(shown));
        }
        let owner = self.owner(record).map_err(|reason| Error::new(ErrorKind::Malformed, "unpack", shown, reason))?;
        own(held.as_fd(), owner).at("unpack", shown)?;
        if kind != Kind::Symlink {
            system::chmod(held.as_fd(), self.mode(record)).at("unpack", shown)?;
        }
        rustix::fs::utimensat(parent, name, &modified(record.mtime), AtFlags::SYMLINK_NOFOLLOW).at("unpack", shown)
    }

    fn attributes(&mut self, file: &impl AsFd, record: &Record, kind: Kind) -> Kernel<()> {
        for (name, value) in &record.attributes {
            let taken = if is_overlay(name) {
                self.options.overlay_attributes
            } else if name == CAPABILITY {
                self.options.capabilities && kind == Kind::File
            } else {
                name.starts_with(b"user.")
            };
            if !taken {
                self.skipped += 1;
                continue;
            }
            match Attributes::of(file).set(name, value) {
                // A file system without user attributes still takes the file.
                Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") && !is_overlay(name) => self.skipped += 1,
                set => set?,
            }
        }
        Ok(())
    }

    /// Marks a directory that stands where the layer itself said that the lower layers' name is gone.
    fn set_opaque(&self, directory: &OwnedFd) -> Kernel<()> {
        match self.options.whiteouts {
            Whiteouts::Oci(namespace) => Attributes::of(directory).set(namespace.opaque(), b"y"),
            Whiteouts::Refuse | Whiteouts::Literal => Ok(()),
        }
    }

    fn is_layer_whiteout(&self, parent: &OwnedFd, name: &OsStr) -> Kernel<bool> {
        if !matches!(self.options.whiteouts, Whiteouts::Oci(_)) {
            return Ok(false);
        }
        match Metadata::of_name(parent, name) {
            Ok(found) => Ok(found.kind.is_whiteout()),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn mode(&self, record: &Record) -> Mode {
        system::mode(if self.options.set_id { record.mode } else { record.mode & !0o6000 })
    }

    fn owner(&self, record: &Record) -> std::result::Result<Option<(Uid, Gid)>, &'static str> {
        if self.options.owner != Owner::Keep {
            return Ok(self.fixed_owner());
        }
        // The largest number means "leave it" to the kernel.
        let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or("owner is no valid id");
        Ok(Some((Uid::from_raw(id(record.uid)?), Gid::from_raw(id(record.gid)?))))
    }

    fn fixed_owner(&self) -> Option<(Uid, Gid)> {
        match self.options.owner {
            Owner::Fixed { uid, gid } if uid != u32::MAX && gid != u32::MAX => Some((Uid::from_raw(uid), Gid::from_raw(gid))),
            Owner::Fixed { .. } | Owner::Keep | Owner::Ignore => None,
        }
    }
}

fn own(file: BorrowedFd<'_>, owner: Option<(Uid, Gid)>) -> Kernel<()> {
    match owner {
        Some((uid, gid)) => system::chown(file, Some(uid), Some(gid)),
        None => Ok(()),
    }
}

fn modified(time: Time) -> Timestamps {
    Timestamps { last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT }, last_modification: moment(time) }
}

fn contended(path: &Path) -> Error {
    Error::new(ErrorKind::Changed, "unpack", path, "somebody else keeps changing this name")
}
