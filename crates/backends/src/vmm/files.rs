use std::{
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::Path,
};

use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, ioctl_ficlone, seek},
    io::Errno,
};
use sandbar_core::{Context, Result};

const BUFFER: usize = 1 << 20;

/// Copies a file without its holes; by reference where the file system can. Costs what the file holds.
///
/// # Errors
/// Of the file system.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (source, target) = (File::open(from)?, File::create_new(to)?);
    let length = source.metadata()?.len();
    if ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    target.set_len(length)?;
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    while at < length {
        let data = match seek(&source, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(&source, SeekFrom::Hole(data))?;
        at = data;
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let read = source.read_at(&mut buffer[..most], at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            target.write_all_at(&buffer[..read], at)?;
            at += read as u64;
        }
    }
    Ok(())
}

/// Makes holes of everything in a file that is nothing but zeros, which is most of a fresh machine's memory. Reads what is no hole.
///
/// # Errors
/// Of the file system. One that has no holes is no error.
pub(crate) fn dig(file: &File) -> io::Result<()> {
    const PAGE: usize = 4096;
    const ZEROS: [u8; PAGE] = [0; PAGE];
    let length = file.metadata()?.len();
    let mut buffer = vec![0; BUFFER];
    let mut empty = 0..0;
    let mut at = 0;
    while at < length {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = seek(file, SeekFrom::Hole(data))?;
        at = data;
        while at < end {
            let most = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
            let read = file.read_at(&mut buffer[..most], at)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for (index, page) in buffer[..read].chunks(PAGE).enumerate() {
                let from = at + (index * PAGE) as u64;
                let to = from + page.len() as u64;
                if *page != ZEROS[..page.len()] {
                    punch(file, &empty)?;
                    empty = to..to;
                } else if empty.end == from {
                    empty.end = to;
                } else {
                    punch(file, &empty)?;
                    empty = from..to;
                }
            }
            at += read as u64;
        }
    }
    punch(file, &empty)
}

fn punch(file: &File, range: &Range<u64>) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, range.start, range.end - range.start) {
        Err(Errno::OPNOTSUPP) => Ok(()),
        punched => Ok(punched?),
    }
}

/// Lets every user read a file, which is in a folder that no user of the host may enter.
///
/// # Errors
/// Of the file system.
pub(crate) fn open_to_all(file: &Path) -> io::Result<()> {
    let mode = fs::metadata(file)?.mode() & 0o7777;
    if mode & 0o4 == 0 { fs::set_permissions(file, fs::Permissions::from_mode(mode | 0o444)) } else { Ok(()) }
}

/// Bytes that a file takes on the disk.
pub(crate) fn occupied(path: &Path) -> Option<u64> {
    Some(fs::metadata(path).ok()?.blocks() * 512)
}

/// Removes a folder with everything in it. One that is gone is no error.
///
/// # Errors
/// Of the file system.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context("remove", || format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_stay_holes() {
        let home = tempfile::tempdir().unwrap();
        let (from, to) = (home.path().join("from"), home.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"here", 8 << 20).unwrap();
        file.write_all_at(&[7; 3 << 20], 40 << 20).unwrap();
        copy(&from, &to).unwrap();
        let copied = std::fs::metadata(&to).unwrap();
        assert_eq!(copied.len(), 64 << 20);
        assert!(copied.blocks() * 512 < 8 << 20);
        assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
    }

    #[test]
    fn zeros_become_holes() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        let mut bytes = vec![0; 5 << 20];
        bytes[1 << 20] = 1;
        bytes[(3 << 20) + 4095] = 2;
        bytes[(5 << 20) - 1] = 3;
        std::fs::write(&path, &bytes).unwrap();
        dig(&File::options().read(true).write(true).open(&path).unwrap()).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes);
        assert_eq!(occupied(&path), Some(3 * 4096));
    }
}
