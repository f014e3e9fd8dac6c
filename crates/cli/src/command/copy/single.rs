//! One file or link, as an archive of one entry: the only form that carries mode and time together.

use std::{
    ffi::OsStr,
    io::{self, Read, Write},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use tar::{Builder, EntryType, Header};

/// What is told of the one entry.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Permission bits.
    pub(super) mode: u32,
    /// Unix nanoseconds of the last change.
    pub(super) modified_ns: i128,
    /// Where it points, if it is a symbolic link.
    pub(super) link: Option<Vec<u8>>,
    /// Bytes, if it is a file.
    pub(super) size: u64,
}

/// Writes an archive with one entry.
///
/// # Errors
/// Those of the reader, the writer; and a file that has become shorter meanwhile.
pub(super) fn pack(name: &str, entry: &Entry, content: impl Read, writer: impl Write) -> io::Result<()> {
    const SECOND: i128 = 1_000_000_000;
    let mut archive = Builder::new(writer);
    let (seconds, fraction) = (entry.modified_ns.div_euclid(SECOND), entry.modified_ns.rem_euclid(SECOND));
    // POSIX pax: the header's own field has whole seconds, and none before 1970.
    let time = if seconds < 0 && fraction > 0 {
        format!("-{}.{:09}", -(seconds + 1), SECOND - fraction)
    } else {
        format!("{seconds}.{fraction:09}")
    };
    archive.append_pax_extensions([("mtime", time.as_bytes())])?;
    let mut header = Header::new_gnu();
    header.set_mode(entry.mode & 0o7777);
    header.set_mtime(u64::try_from(seconds).unwrap_or(0));
    match &entry.link {
        Some(target) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            archive.append_link(&mut header, name, Path::new(OsStr::from_bytes(target)))?;
        }
        None => {
            header.set_entry_type(EntryType::Regular);
            header.set_size(entry.size);
            archive.append_data(&mut header, name, Exactly { inner: content, left: entry.size })?;
        }
    }
    archive.into_inner()?.flush()
}

/// Reads as much as was announced: a file that grows is cut, one that shrinks is an error.
struct Exactly<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.inner.read(&mut buffer[..most])? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was copied")),
            count => {
                self.left -= count as u64;
                Ok(count)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(name: &str, entry: &Entry, content: &[u8]) -> io::Result<Vec<u8>> {
        let mut archive = Vec::new();
        pack(name, entry, content, &mut archive).map(|()| archive)
    }

    #[test]
    fn mode_and_time_are_kept() {
        let name = format!("{} b\nc", "a".repeat(150));
        let entry = Entry { mode: 0o754, modified_ns: 1_700_000_000_123_456_789, link: None, size: 5 };
        let packed = archive(&name, &entry, b"hello, and more").unwrap();
        let into = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(into.path()).unwrap();
        sandbar_tree::unpack(packed.as_slice(), &directory, &sandbar_tree::UnpackOptions::default()).unwrap();
        let metadata = std::fs::metadata(into.path().join(&name)).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime(), metadata.mtime_nsec()), (0o754, 1_700_000_000, 123_456_789));
        assert_eq!(std::fs::read(into.path().join(&name)).unwrap(), b"hello");
    }

    #[test]
    fn times_before_1970_are_kept() {
        let entry = Entry { mode: 0o644, modified_ns: -1_500_000_000, link: None, size: 0 };
        let into = tempfile::tempdir().unwrap();
        let directory = std::fs::File::open(into.path()).unwrap();
        let packed = archive("old", &entry, b"").unwrap();
        sandbar_tree::unpack(packed.as_slice(), &directory, &sandbar_tree::UnpackOptions::default()).unwrap();
        use std::os::unix::fs::MetadataExt;
        let metadata = std::fs::metadata(into.path().join("old")).unwrap();
        assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (-2, 500_000_000));
    }

    #[test]
    fn a_file_that_became_shorter_is_no_archive() {
        let entry = Entry { mode: 0o644, modified_ns: 0, link: None, size: 10 };
        assert!(archive("x", &entry, b"short").is_err());
    }
}
