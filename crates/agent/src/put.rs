use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
    rand::GetRandomFlags,
};
use sandbar_protocol::{MAX_BULK, Put};
use sandbar_tree::{Base, ErrorKind, Owner, Symlinks, UnpackOptions, unpack};

use crate::{
    failure::{self, Kind, Result, failure, system},
    files::{Ids, done, make_dirs, own_ids, path, refused},
    forks::Forks,
    transfer::{Incoming, Link, lost},
};

/// Most symbolic links that are followed, as in the kernel.
const MAX_LINKS: usize = 40;

/// Receives a file under a temporary name beside its place, and renames it there when it is whole.
pub(crate) fn file(base: &Base, owner: Ids, request: &Put, forks: &Forks, link: &mut Link) -> Result<()> {
    let path = path(&request.path);
    if request.no_replace && base.stat(path, Symlinks::Keep).is_ok() {
        return Err(failure(Kind::AlreadyExists, format!("{path:?} exists")));
    }
    if let (true, Some(parent)) = (request.make_parents, path.parent().filter(|parent| !parent.as_os_str().is_empty())) {
        make_dirs(base, owner, parent)?;
    }
    let place = Place::find(base, path)?;
    let mode = request.mode.map(|mode| mode & 0o7777).or(place.mode).unwrap_or(0o644);
    let (uid, gid) = request.owner.map_or(owner, |owner| (owner.uid, owner.gid));
    let cannot = |what: &str, errno| system(format!("cannot {what} {path:?}"), errno);
    let mut temporary = Temporary::new(&place).map_err(|errno| cannot("write beside", errno))?;
    receive(link, &mut temporary.file).map_err(|error| match error {
        Broken::Disk(error) => failure::io(format!("cannot write {path:?}"), &error),
        Broken::Connection(error) => lost(&error.into()),
    })?;
    if (uid, gid) != own_ids() {
        let given = rustix::fs::fchown(&temporary.file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        given.map_err(|errno| cannot("change the owner of", errno))?;
    }
    rustix::fs::fchmod(&temporary.file, Mode::from_raw_mode(mode)).map_err(|errno| cannot("change the mode of", errno))?;
    temporary.settle(request.no_replace).map_err(|errno| cannot("replace", errno))?;
    drop(temporary);
    forks.settle();
    done(link)
}

/// Receives a tar stream beneath a directory.
pub(crate) fn tree(base: &Base, owner: Ids, request: &Put, forks: &Forks, link: &mut Link) -> Result<()> {
    let path = path(&request.path);
    let ids = request.owner.map_or(owner, |owner| (owner.uid, owner.gid));
    match base.stat(path, Symlinks::Follow) {
        Ok(_) if request.no_replace => return Err(failure(Kind::AlreadyExists, format!("{path:?} exists"))),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if request.make_parents {
                make_dirs(base, ids, path)?;
            } else {
                base.make_dir(path, false, 0o755).map_err(refused)?;
                if ids != own_ids() {
                    base.chown(path, Some(ids.0), Some(ids.1), Symlinks::Keep).map_err(refused)?;
                }
            }
        }
        Err(error) => return Err(refused(error)),
    }
    let into = base.open_directory(path).map_err(refused)?;
    let owner = if ids == own_ids() { Owner::Ignore } else { Owner::Fixed { uid: ids.0, gid: ids.1 } };
    let mut incoming = Incoming::new(link);
    unpack(&mut incoming, &into, &UnpackOptions { owner, ..UnpackOptions::default() }).map_err(refused)?;
    // Padding after the end of the archive.
    incoming.finish().map_err(|error| lost(&error.into()))?;
    if let Some(mode) = request.mode {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        rustix::fs::fchmod(&into, mode).map_err(|errno| system(format!("cannot change the mode of {path:?}"), errno))?;
    }
    forks.settle();
    done(link)
}

/// Which side of a copy failed.
enum Broken {
    Disk(io::Error),
    Connection(io::Error),
}

fn receive(link: &mut Link, file: &mut File) -> std::result::Result<(), Broken> {
    let mut incoming = Incoming::new(link);
    let mut buffer = vec![0; MAX_BULK];
    loop {
        match incoming.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => file.write_all(&buffer[..length]).map_err(Broken::Disk)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Broken::Connection(error)),
        }
    }
}

/// Where a file is to be: behind all symbolic links.
struct Place {
    directory: OwnedFd,
    name: OsString,
    /// Permission bits of the file that is there.
    mode: Option<u32>,
}

impl Place {
    fn find(base: &Base, path: &Path) -> Result<Self> {
        let mut at = PathBuf::from(path);
        for _ in 0..MAX_LINKS {
            let (directory, name) = base.open_parent(&at).map_err(refused)?;
            match rustix::fs::readlinkat(&directory, &name, Vec::new()) {
                Ok(target) => {
                    let target = Path::new(OsStr::from_bytes(target.as_bytes()));
                    // An absolute target takes the whole path's place.
                    at = at.parent().unwrap_or(Path::new("")).join(target);
                }
                Err(Errno::NOENT) => return Ok(Self { directory, name, mode: None }),
                Err(Errno::INVAL) => {
                    let found = rustix::fs::statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW);
                    let found = found.map_err(|errno| system(format!("cannot stat {path:?}"), errno))?;
                    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
                        return Err(failure(Kind::InvalidInput, format!("{path:?} exists and is not a regular file")));
                    }
                    return Ok(Self { directory, name, mode: Some(found.st_mode & 0o7777) });
                }
                Err(errno) => return Err(system(format!("cannot read the link {path:?}"), errno)),
            }
        }
        Err(system(format!("too many symbolic links at {path:?}"), Errno::LOOP))
    }
}

/// A file that is removed unless it came to its place.
struct Temporary<'place> {
    file: File,
    name: String,
    place: &'place Place,
    settled: bool,
}

impl<'place> Temporary<'place> {
    fn new(place: &'place Place) -> std::result::Result<Self, Errno> {
        let mut random = [0; 8];
        rustix::rand::getrandom(&mut random, GetRandomFlags::empty())?;
        let name = format!(".sandbar-put-{:016x}", u64::from_ne_bytes(random));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&place.directory, &name, flags, Mode::RUSR | Mode::WUSR)?;
        Ok(Self { file: file.into(), name, place, settled: false })
    }

    fn settle(&mut self, no_replace: bool) -> std::result::Result<(), Errno> {
        let Place { directory, name, .. } = self.place;
        if no_replace {
            rustix::fs::renameat_with(directory, &self.name, directory, name, RenameFlags::NOREPLACE)?;
        } else {
            rustix::fs::renameat(directory, &self.name, directory, name)?;
        }
        self.settled = true;
        Ok(())
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.settled {
            let _ = rustix::fs::unlinkat(&self.place.directory, &self.name, AtFlags::empty());
        }
    }
}
