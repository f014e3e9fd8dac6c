//! Holes of files, which archives do not carry.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt},
        },
    },
    path::Path,
};

use rustix::{
    fs::{CWD, FallocateFlags, Mode, OFlags, SeekFrom, Timespec, Timestamps, fallocate, fstat, futimens, openat, seek},
    io::Errno,
};
use sandbar_core::{Context, Result};

use super::error::OPERATION;

/// Punches the holes of the files in one tree into the same files of another, which hold zeros there. What is not the same there is left alone.
///
/// # Errors
/// Of the file system; a file system without holes is no error.
pub(super) fn punch(from: &Path, into: &Path) -> Result<()> {
    let work = || -> io::Result<()> { folder(&open(CWD, from)?, &open(CWD, into)?) };
    work().context(OPERATION, || format!("cannot make the files in {} sparse", into.display()))
}

fn open(parent: impl AsFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

fn folder(from: &OwnedFd, into: &OwnedFd) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(from));
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (name, metadata) = (entry.file_name(), entry.metadata()?);
        if metadata.is_dir() {
            if let (Ok(from), Ok(into)) = (open(from, Path::new(&name)), open(into, Path::new(&name))) {
                folder(&from, &into)?;
            }
        } else if metadata.is_file() && metadata.blocks() * 512 < metadata.len() {
            let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            let name = name.as_bytes();
            let source = openat(from, name, OFlags::RDONLY | flags, Mode::empty())?;
            if let Ok(target) = openat(into, name, OFlags::RDWR | flags, Mode::empty()) {
                file(&File::from(source), &File::from(target))?;
            }
        }
    }
    Ok(())
}

fn file(source: &File, target: &File) -> io::Result<()> {
    let length = source.metadata()?.len();
    let before = fstat(target)?;
    if !target.metadata()?.is_file() || target.metadata()?.len() != length {
        return Ok(());
    }
    let mut at = 0;
    while at < length {
        let hole = seek(source, SeekFrom::Hole(at))?;
        let data = match seek(source, SeekFrom::Data(hole)) {
            Err(Errno::NXIO) => length,
            found => found?,
        };
        if hole >= length {
            break;
        }
        if is_zero(target, hole, data)? {
            match fallocate(target, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, hole, data - hole) {
                Err(Errno::OPNOTSUPP) => return Ok(()),
                punched => punched?,
            }
        }
        at = data;
    }
    let time = |seconds: i64, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.cast_signed() };
    let times = Timestamps {
        last_access: time(before.st_atime, before.st_atime_nsec),
        last_modification: time(before.st_mtime, before.st_mtime_nsec),
    };
    Ok(futimens(target, &times)?)
}

/// Whether the bytes of a range are what a hole would read as.
fn is_zero(file: &File, from: u64, to: u64) -> io::Result<bool> {
    let mut buffer = vec![0; 256 << 10];
    let mut at = from;
    while at < to {
        let wanted = usize::try_from(to - at).unwrap_or(usize::MAX).min(buffer.len());
        let read = file.read_at(&mut buffer[..wanted], at)?;
        if read == 0 || buffer[..read].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += read as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_punched_where_there_are_zeros_and_nowhere_else() {
        let home = tempfile::tempdir().unwrap();
        let (from, into) = (home.path().join("from"), home.path().join("into"));
        fs::create_dir_all(from.join("folder")).unwrap();
        fs::create_dir_all(into.join("folder")).unwrap();
        for name in ["folder/sparse", "other"] {
            let file = File::create(from.join(name)).unwrap();
            file.set_len(8 << 20).unwrap();
            file.write_all_at(b"end", (8 << 20) - 3).unwrap();
        }
        let mut content = vec![0; 8 << 20];
        content[(8 << 20) - 3..].copy_from_slice(b"end");
        fs::write(into.join("folder/sparse"), &content).unwrap();
        content[0] = 1;
        fs::write(into.join("other"), &content).unwrap();
        let modified = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        let before = modified(&into.join("folder/sparse"));
        punch(&from, &into).unwrap();
        assert!(fs::metadata(into.join("folder/sparse")).unwrap().blocks() * 512 < 1 << 20);
        assert_eq!(fs::metadata(into.join("folder/sparse")).unwrap().len(), 8 << 20);
        assert_eq!(modified(&into.join("folder/sparse")), before);
        assert_eq!(fs::read(into.join("other")).unwrap(), content);
    }
}
