use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
};

use rustix::{
    fs::{SeekFrom, ioctl_ficlone, seek},
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
}
