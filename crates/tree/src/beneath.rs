//! A directory, how far paths may reach from it, and every operation on a single path.

use crate::error::{Context, Error, ErrorKind, Result};
use crate::listing::ReadDir;
use crate::metadata::{Kind, Metadata};
use crate::resolve::{self, Reach};
use crate::system::{self, HELD, HELD_ITSELF};
use crate::{nofollow, remove};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading; the file must exist.
    Read,
    /// Writing from the start: created if it does not exist, else emptied.
    Replace,
    /// Writing a file that must not exist yet, not even as a symbolic link.
    CreateNew,
    /// Writing at the end: created if it does not exist.
    Append,
}

/// What to do when the last component of a path is a symbolic link. Links before it are always followed, as far as
/// the base reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Symlinks {
    /// Act on what it points to.
    Follow,
    /// Act on the link itself.
    Keep,
}

/// What may be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Anything but a directory.
    File,
    /// A directory that is empty.
    EmptyDirectory,
    /// Anything, a directory with all that is below it.
    Recursive,
}

/// A directory and a policy: what paths given by others may reach from it.
///
/// Each operation resolves its path once, to a descriptor, and then acts on that descriptor or on one name in it, so
/// a process that swaps directories for links in the meantime changes nothing about where the operation lands.
///
/// Every operation refuses an empty path and one with a NUL byte as [`ErrorKind::InvalidPath`]. Modes of things
/// created are subject to the process's umask. Files of kernel interfaces (procfs, sysfs, cgroups …) can be read but
/// never written or changed through a base, since the path may lead there over a link that somebody planted.
#[derive(Debug)]
pub struct Base {
    directory: OwnedFd,
    reach: Reach,
    own_path: Option<PathBuf>,
    /// Where relative paths start in a jail, seen from its directory.
    working_directory: Option<PathBuf>,
}

impl Base {
    /// A base that no path leaves: `..` and links may lead about inside it; whatever would lead out of it, an absolute
    /// link included, is [`ErrorKind::PermissionDenied`] with "path leaves the workspace".
    ///
    /// `own_path` is the absolute path under which others know the directory, if any: an absolute path that starts
    /// with it is taken relative to the base; every other absolute path is refused.
    pub fn jail(directory: impl Into<OwnedFd>, own_path: Option<PathBuf>) -> Self {
        Self { directory: directory.into(), reach: Reach::Beneath, own_path, working_directory: None }
    }

    /// The same with relative paths starting at a directory of the jail, which is given relative to it or as an absolute path beneath
    /// `own_path`. One that lies elsewhere is left out of account.
    #[must_use]
    pub fn with_working_directory(mut self, path: &Path) -> Self {
        let own = self.own_path.as_deref();
        let relative = if path.is_relative() { Some(path) } else { own.and_then(|own| path.strip_prefix(own).ok()) };
        self.working_directory = relative.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned);
        self
    }

    /// The whole file system as this process sees it: for the agent, whose root is the sandbox's. Relative paths start
    /// at `/`. Links of procfs that are not text are not followed.
    pub fn root() -> Result<Self> {
        let flags = HELD | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, "/", flags, Mode::empty()).at("open", "/")?;
        Ok(Self::root_at(directory))
    }

    /// As [`Base::root`], with relative paths starting at a working directory.
    pub fn root_at(working_directory: impl Into<OwnedFd>) -> Self {
        Self { directory: working_directory.into(), reach: Reach::Anywhere, own_path: None, working_directory: None }
    }

    /// Opens a regular file; anything else is refused ([`ErrorKind::IsADirectory`], [`ErrorKind::Unsupported`]), and
    /// a pipe or device does not block the opening. `mode` counts only if the file is created.
    pub fn open_file(&self, path: impl AsRef<Path>, access: Access, mode: u32) -> Result<File> {
        let path = path.as_ref();
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            // Emptied below, when it is certain what it is.
            Access::Replace => OFlags::WRONLY | OFlags::CREATE,
            Access::CreateNew => OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
            Access::Append => OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND,
        };
        let flags = flags | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.resolve("open", path, flags, system::mode(mode & 0o7777)) {
            // A pipe without a reader, or a socket.
            Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => return Err(not_regular(path)),
            opened => opened?,
        };
        match Metadata::of(&file).at("open", path)?.kind {
            Kind::File => {}
            Kind::Directory => return Err(Error::io("open", path, Errno::ISDIR)),
            _ => return Err(not_regular(path)),
        }
        if access != Access::Read {
            refuse_kernel_interface("write", path, &file)?;
        }
        if access == Access::Replace {
            rustix::fs::ftruncate(&file, 0).at("truncate", path)?;
        }
        Ok(File::from(file))
    }

    /// Opens a directory for listing and as the start of further walks.
    pub fn open_directory(&self, path: impl AsRef<Path>) -> Result<OwnedFd> {
        self.resolve("open", path.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK, Mode::empty())
    }

    /// The directory that holds the last component of a path (an `O_PATH` descriptor), and that component. The last
    /// component is not looked at; it must be a name, not `.`, `..` or the root.
    pub fn open_parent(&self, path: impl AsRef<Path>) -> Result<(OwnedFd, OsString)> {
        self.parent("open the parent of", path.as_ref())
    }

    /// Describes what a path names.
    pub fn stat(&self, path: impl AsRef<Path>, symlinks: Symlinks) -> Result<Metadata> {
        let path = path.as_ref();
        let held = self.hold("stat", path, symlinks)?;
        Metadata::of(held).at("stat", path)
    }

    /// The text of a symbolic link; [`ErrorKind::Unsupported`] if it is none.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        let held = self.hold("read the link", path, Symlinks::Keep)?;
        if Metadata::of(&held).at("read the link", path)?.kind != Kind::Symlink {
            return Err(Error::new(ErrorKind::Unsupported, "read the link", path, "not a symbolic link"));
        }
        let target = system::read_held_link(held.as_fd()).at("read the link", path)?;
        Ok(OsString::from_vec(target).into())
    }

    /// Lists a directory.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<ReadDir> {
        let path = path.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        ReadDir::new(self.resolve("list", path, flags, Mode::empty())?, path.to_owned())
    }

    /// Makes a directory. With `parents`, makes those missing before it too, with the same mode, and is content if the
    /// directory exists already; without, an existing one is [`ErrorKind::AlreadyExists`].
    pub fn make_dir(&self, path: impl AsRef<Path>, parents: bool, mode: u32) -> Result<()> {
        const OPERATION: &str = "make the directory";
        let path = path.as_ref();
        let mode = system::mode(mode & 0o7777);
        if !parents {
            let (parent, name) = self.parent_to_change(OPERATION, path)?;
            return rustix::fs::mkdirat(parent, &name, mode).at(OPERATION, path);
        }
        let inner = self.inner(OPERATION, path)?;
        let mut prefix = PathBuf::new();
        // Prefixes rather than one descriptor after the other: `..` and links keep their meaning, and the jail holds
        // for each of them.
        for component in inner.components() {
            prefix.push(component);
            let there = resolve::open(self.directory.as_fd(), &prefix, HELD | OFlags::DIRECTORY, Mode::empty(), self.reach);
            match there {
                Ok(_) => {}
                Err(Errno::NOENT) => match self.make_inner(&prefix, mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(self.explain(OPERATION, path, error)),
                },
                Err(error) => return Err(self.explain(OPERATION, path, error)),
            }
        }
        // Somebody else may have won the race, or a link that leads nowhere stands there: a directory it must be.
        self.resolve(OPERATION, path, HELD | OFlags::DIRECTORY, Mode::empty()).map(drop)
    }

    /// Renames, replacing what has the new name (a directory only if it is empty). With `replace` false a taken name
    /// is [`ErrorKind::AlreadyExists`], decided by the kernel in the same step.
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>, replace: bool) -> Result<()> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let (from_parent, from_name) = self.parent_to_change("rename", from)?;
        let (to_parent, to_name) = self.parent_to_change("rename", to)?;
        let renamed = if replace {
            rustix::fs::renameat(from_parent, &from_name, to_parent, &to_name)
        } else {
            rustix::fs::renameat_with(from_parent, &from_name, to_parent, &to_name, RenameFlags::NOREPLACE)
        };
        renamed.map_err(|error| match error {
            // What is in the way is the other path's matter.
            Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR => Error::io("rename", to, error),
            _ => Error::io("rename", from, error),
        })
    }

    /// Removes one name, and with [`Removal::Recursive`] what is below it; see [`remove_tree`](crate::remove_tree).
    /// A symbolic link is removed itself. The base itself cannot be removed.
    pub fn remove(&self, path: impl AsRef<Path>, removal: Removal) -> Result<()> {
        let path = path.as_ref();
        let (parent, name) = self.parent_to_change("remove", path)?;
        match removal {
            Removal::File => rustix::fs::unlinkat(parent, &name, AtFlags::empty()).at("remove", path),
            Removal::EmptyDirectory => rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR).at("remove", path),
            Removal::Recursive => remove::remove_named(parent.as_fd(), &name, path),
        }
    }

    /// Makes a symbolic link. Its text is stored as given and not judged here: it leads nowhere by itself.
    pub fn symlink(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<()> {
        let (target, path) = (target.as_ref(), path.as_ref());
        no_nul("make the link", target)?;
        let (parent, name) = self.parent_to_change("make the link", path)?;
        rustix::fs::symlinkat(target, parent, &name).at("make the link", path)
    }

    /// Sets the permission bits (`0..=0o7777`), following links. Needs procfs.
    pub fn chmod(&self, path: impl AsRef<Path>, mode: u32) -> Result<()> {
        const OPERATION: &str = "change the mode of";
        let path = path.as_ref();
        let held = self.hold(OPERATION, path, Symlinks::Follow)?;
        refuse_kernel_interface(OPERATION, path, &held)?;
        system::chmod(held.as_fd(), system::mode(mode & 0o7777)).at(OPERATION, path)
    }

    /// Sets owner and group; `None` leaves one as it is. The kernel clears setuid and setgid.
    pub fn chown(&self, path: impl AsRef<Path>, uid: Option<u32>, gid: Option<u32>, symlinks: Symlinks) -> Result<()> {
        const OPERATION: &str = "change the owner of";
        let path = path.as_ref();
        if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, path, "4294967295 is nobody's id"));
        }
        let held = self.hold(OPERATION, path, symlinks)?;
        refuse_kernel_interface(OPERATION, path, &held)?;
        system::chown(held.as_fd(), uid.map(Uid::from_raw), gid.map(Gid::from_raw)).at(OPERATION, path)
    }

    fn hold(&self, operation: &'static str, path: &Path, symlinks: Symlinks) -> Result<OwnedFd> {
        let flags = match symlinks {
            Symlinks::Follow => HELD,
            Symlinks::Keep => HELD_ITSELF,
        };
        self.resolve(operation, path, flags, Mode::empty())
    }

    fn resolve(&self, operation: &'static str, path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let inner = self.inner(operation, path)?;
        resolve::open(self.directory.as_fd(), &inner, flags, mode, self.reach).map_err(|error| self.explain(operation, path, error))
    }

    fn parent(&self, operation: &'static str, path: &Path) -> Result<(OwnedFd, OsString)> {
        let inner = self.inner(operation, path)?;
        let (before, name) =
            split(&inner).ok_or_else(|| Error::new(ErrorKind::InvalidPath, operation, path, "path does not end in a name"))?;
        let flags = HELD | OFlags::DIRECTORY;
        let parent = resolve::open(self.directory.as_fd(), before, flags, Mode::empty(), self.reach)
            .map_err(|error| self.explain(operation, path, error))?;
        Ok((parent, name.to_owned()))
    }

    /// As `parent`, for an operation that changes what the parent holds.
    fn parent_to_change(&self, operation: &'static str, path: &Path) -> Result<(OwnedFd, OsString)> {
        let (parent, name) = self.parent(operation, path)?;
        refuse_kernel_interface(operation, path, &parent)?;
        Ok((parent, name))
    }

    fn make_inner(&self, inner: &Path, mode: Mode) -> std::result::Result<(), Errno> {
        let (before, name) = split(inner).ok_or(Errno::NOENT)?;
        let flags = HELD | OFlags::DIRECTORY;
        let parent = resolve::open(self.directory.as_fd(), before, flags, Mode::empty(), self.reach)?;
        if system::is_kernel_interface(&parent)? {
            return Err(Errno::ACCESS);
        }
        rustix::fs::mkdirat(parent, name, mode)
    }

    /// The path as it is seen from the directory.
    fn inner<'path>(&self, operation: &'static str, path: &'path Path) -> Result<Cow<'path, Path>> {
        if path.as_os_str().is_empty() {
            return Err(Error::new(ErrorKind::InvalidPath, operation, path, "path is empty"));
        }
        no_nul(operation, path)?;
        if self.reach == Reach::Anywhere {
            return Ok(Cow::Borrowed(path));
        }
        if path.is_relative() {
            return Ok(self.working_directory.as_ref().map_or(Cow::Borrowed(path), |start| Cow::Owned(start.join(path))));
        }
        match self.own_path.as_deref().and_then(|own| path.strip_prefix(own).ok()) {
            Some(rest) if rest.as_os_str().is_empty() => Ok(Cow::Borrowed(Path::new("."))),
            Some(rest) => Ok(Cow::Borrowed(rest)),
            None => Err(leaves(operation, path)),
        }
    }

    fn explain(&self, operation: &'static str, path: &Path, error: Errno) -> Error {
        match error {
            Errno::XDEV if self.reach == Reach::Beneath => leaves(operation, path),
            _ => Error::io(operation, path, error),
        }
    }
}

impl AsFd for Base {
    /// The directory itself. What is done with it is outside the base's policy.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// What the path of a tree leads to: the tree's directory, or the file's parent and name.
pub(crate) enum Tree {
    /// A directory, opened for listing.
    Directory(OwnedFd),
    /// Something else, by its name in its parent.
    Named(OwnedFd, OsString),
}

impl Base {
    /// Opens what is to be walked. The last component is not followed.
    pub(crate) fn open_tree(&self, operation: &'static str, path: &Path) -> Result<Tree> {
        let inner = self.inner(operation, path)?;
        if split(&inner).is_none() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
            return self.resolve(operation, path, flags, Mode::empty()).map(Tree::Directory);
        }
        let (parent, name) = self.parent(operation, path)?;
        match Metadata::of_name(&parent, &name).at(operation, path)?.kind {
            Kind::Directory => nofollow::open_directory(&parent, &name).at(operation, path).map(Tree::Directory),
            _ => Ok(Tree::Named(parent, name)),
        }
    }
}

/// The last name of a path and what is before it; `None` if the path does not end in a name.
fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    let name = path.file_name()?;
    // `file_name` overlooks a final `/.`, which names the directory itself.
    let text = path.as_os_str().as_bytes();
    if text.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()) == Some(b".") {
        return None;
    }
    match path.parent() {
        Some(before) if !before.as_os_str().is_empty() => Some((before, name)),
        _ => Some((Path::new("."), name)),
    }
}

fn no_nul(operation: &'static str, path: &Path) -> Result<()> {
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(Error::new(ErrorKind::InvalidPath, operation, path, "path contains a NUL byte"));
    }
    Ok(())
}

fn leaves(operation: &'static str, path: &Path) -> Error {
    Error::new(ErrorKind::PermissionDenied, operation, path, "path leaves the workspace")
}

fn not_regular(path: &Path) -> Error {
    Error::new(ErrorKind::Unsupported, "open", path, "not a regular file")
}

fn refuse_kernel_interface(operation: &'static str, path: &Path, file: &OwnedFd) -> Result<()> {
    if system::is_kernel_interface(file).at(operation, path)? {
        return Err(Error::new(ErrorKind::PermissionDenied, operation, path, "the path leads to an interface of the kernel"));
    }
    Ok(())
}
