use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::io::Errno;
use sandbar_protocol::{Ack, Entry, Failure, KindOfFile, MakeDir, Remove, Rename, Stat, Symlink, reply};
use sandbar_tree::{Base, Error, ErrorKind, Metadata, Removal, Symlinks, Time};

use crate::{
    failure::{Kind, Result, failure},
    transfer::Link,
};

/// Who new files belong to: user and group.
pub(crate) type Ids = (u32, u32);

pub(crate) fn stat(base: &Base, request: &Stat, link: &mut Link) -> Result<()> {
    let path = path(&request.path);
    let symlinks = if request.follow { Symlinks::Follow } else { Symlinks::Keep };
    let metadata = base.stat(path, symlinks).map_err(refused)?;
    let target = match metadata.kind {
        // It may have become something else meanwhile; then it has no target.
        sandbar_tree::Kind::Symlink => base.read_link(path).ok(),
        _ => None,
    };
    link.answer(reply::Answer::Entry(entry(OsStr::new(""), &metadata, target.as_deref())))
}

pub(crate) fn make_dir(base: &Base, owner: Ids, request: &MakeDir, link: &mut Link) -> Result<()> {
    let path = path(&request.path);
    if request.parents {
        make_dirs(base, owner, path)?;
    } else {
        base.make_dir(path, false, 0o755).map_err(refused)?;
        give(base, owner, path)?;
    }
    if let Some(mode) = request.mode {
        base.chmod(path, mode).map_err(refused)?;
    }
    done(link)
}

pub(crate) fn rename(base: &Base, request: &Rename, link: &mut Link) -> Result<()> {
    base.rename(path(&request.from), path(&request.to), !request.no_replace).map_err(refused)?;
    done(link)
}

pub(crate) fn symlink(base: &Base, owner: Ids, request: &Symlink, link: &mut Link) -> Result<()> {
    let path = path(&request.path);
    base.symlink(OsStr::from_bytes(&request.target), path).map_err(refused)?;
    if owner != own_ids() {
        base.chown(path, Some(owner.0), Some(owner.1), Symlinks::Keep).map_err(refused)?;
    }
    done(link)
}

pub(crate) fn remove(base: &Base, request: &Remove, link: &mut Link) -> Result<()> {
    let path = path(&request.path);
    let removed = if request.recursive {
        base.remove(path, Removal::Recursive)
    } else {
        match base.remove(path, Removal::File) {
            // An empty directory goes as well.
            Err(error) if matches!(error.kind(), ErrorKind::IsADirectory | ErrorKind::PermissionDenied) => {
                match base.stat(path, Symlinks::Keep) {
                    Ok(found) if found.kind == sandbar_tree::Kind::Directory => base.remove(path, Removal::EmptyDirectory),
                    _ => Err(error),
                }
            }
            other => other,
        }
    };
    match removed {
        Err(error) if request.missing_ok && error.kind() == ErrorKind::NotFound => done(link),
        Err(error) => Err(refused(error)),
        Ok(()) => done(link),
    }
}

/// Makes a directory and those missing before it, all for the same owner. One that exists is no error.
pub(crate) fn make_dirs(base: &Base, owner: Ids, path: &Path) -> Result<()> {
    let mut prefix = PathBuf::new();
    for component in path.components() {
        prefix.push(component);
        match base.stat(&prefix, Symlinks::Follow) {
            Ok(_) => continue,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            // Above the jail's own path nothing may be looked at, and nothing is missing.
            Err(_) => continue,
        }
        match base.make_dir(&prefix, false, 0o755) {
            Ok(()) => give(base, owner, &prefix)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(refused(error)),
        }
    }
    // Whatever stands there now must be a directory, and one that may be reached.
    match base.stat(path, Symlinks::Follow).map_err(refused)?.kind {
        sandbar_tree::Kind::Directory => Ok(()),
        _ => Err(failure(Kind::InvalidInput, format!("{path:?} is not a directory"))),
    }
}

/// Gives a new thing to its owner.
fn give(base: &Base, owner: Ids, path: &Path) -> Result<()> {
    if owner == own_ids() {
        return Ok(());
    }
    base.chown(path, Some(owner.0), Some(owner.1), Symlinks::Keep).map_err(refused)
}

/// Whom new files belong to by themselves.
pub(crate) fn own_ids() -> Ids {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

pub(crate) fn path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

pub(crate) fn done(link: &mut Link) -> Result<()> {
    link.answer(reply::Answer::Done(Ack {}))
}

pub(crate) fn entry(name: &OsStr, metadata: &Metadata, target: Option<&Path>) -> Entry {
    let kind = match metadata.kind {
        sandbar_tree::Kind::File => KindOfFile::File,
        sandbar_tree::Kind::Directory => KindOfFile::Directory,
        sandbar_tree::Kind::Symlink => KindOfFile::Symlink,
        _ => KindOfFile::Other,
    };
    Entry {
        name: name.as_bytes().to_vec(),
        kind: kind as i32,
        size: metadata.size,
        mode: metadata.mode,
        uid: metadata.uid,
        gid: metadata.gid,
        modified_ns: nanoseconds(metadata.mtime),
        symlink_target: target.map(|target| target.as_os_str().as_bytes().to_vec()),
    }
}

fn nanoseconds(time: Time) -> i64 {
    time.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanoseconds))
}

/// What a failed file operation means to the host.
pub(crate) fn refused(error: Error) -> Failure {
    let kind = match error.kind() {
        ErrorKind::NotFound => Kind::NotFound,
        ErrorKind::AlreadyExists => Kind::AlreadyExists,
        ErrorKind::PermissionDenied | ErrorKind::Refused | ErrorKind::ReadOnly => Kind::PermissionDenied,
        ErrorKind::InvalidPath
        | ErrorKind::NotADirectory
        | ErrorKind::IsADirectory
        | ErrorKind::DirectoryNotEmpty
        | ErrorKind::Symlink
        | ErrorKind::CrossesDevices => Kind::InvalidInput,
        ErrorKind::LimitExceeded | ErrorKind::NoSpace => Kind::ResourceExhausted,
        ErrorKind::Malformed => Kind::Corrupt,
        ErrorKind::Busy | ErrorKind::Changed => Kind::Conflict,
        ErrorKind::Unsupported => Kind::Unsupported,
        _ => error.raw_os_error().map_or(Kind::Internal, |number| Kind::of(Errno::from_raw_os_error(number))),
    };
    let errno = error.raw_os_error();
    let mut message = error.to_string();
    if let Some(source) = std::error::Error::source(&error) {
        message = format!("{message}: {source}");
    }
    Failure { kind: kind.name().to_owned(), message, errno }
}
