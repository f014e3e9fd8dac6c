//! Tar written: ustar headers, and PAX records before them for what those cannot hold.

use crate::metadata::{Kind, Metadata, Time};
use crate::pack::Failure;
use rustix::fd::OwnedFd;
use rustix::io::{Errno, read};
use std::io::{self, Write};
use tar::{EntryType, Header};

const BLOCK: usize = 512;

/// Bytes read of a file at a time.
const CHUNK: usize = 128 * 1024;

/// The largest number in a ustar field of eight and of twelve bytes.
const SHORT_FIELD: u64 = 0o7_777_777;
const LONG_FIELD: u64 = 0o77_777_777_777;

/// Bytes in the header's field for a name, and in that for a link's target.
const NAME: usize = 100;

/// One entry to be written; its content, if any, follows by [`Emitter::content`].
pub(crate) struct Entry<'entry> {
    pub(crate) path: &'entry [u8],
    pub(crate) link: &'entry [u8],
    /// Whether the entry is another name for `link`, whatever its kind.
    pub(crate) hard_link: bool,
    /// Bytes of content.
    pub(crate) size: u64,
    pub(crate) attributes: &'entry [(Vec<u8>, Vec<u8>)],
    pub(crate) metadata: &'entry Metadata,
}

impl<'entry> Entry<'entry> {
    /// An entry without content.
    pub(crate) fn new(path: &'entry [u8], metadata: &'entry Metadata) -> Self {
        Self { path, link: b"", hard_link: false, size: 0, attributes: &[], metadata }
    }
}

/// A tar stream that is being written.
pub(crate) struct Emitter<Output> {
    output: Output,
    buffer: Vec<u8>,
    as_root: bool,
}

impl<Output: Write> Emitter<Output> {
    /// With every entry as it is, or as root's.
    pub(crate) fn new(output: Output, as_root: bool) -> Self {
        Self { output, buffer: vec![0; CHUNK], as_root }
    }

    /// Writes an entry's headers.
    pub(crate) fn entry(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let metadata = entry.metadata;
        let mut pax = Vec::new();
        let mut header = Header::new_ustar();
        header.set_entry_type(entry_type(entry));
        header.set_mode(metadata.mode);

        copy_name(&mut header.as_old_mut().name, entry.path, b"path", &mut pax);
        copy_name(&mut header.as_old_mut().linkname, entry.link, b"linkpath", &mut pax);
        header.set_size(fitting(entry.size, LONG_FIELD, b"size", &mut pax));
        let (uid, gid) = if self.as_root { (0, 0) } else { (metadata.uid, metadata.gid) };
        header.set_uid(fitting(uid.into(), SHORT_FIELD, b"uid", &mut pax));
        header.set_gid(fitting(gid.into(), SHORT_FIELD, b"gid", &mut pax));

        let whole = u64::try_from(metadata.mtime.seconds).ok().filter(|seconds| *seconds <= LONG_FIELD);
        header.set_mtime(whole.unwrap_or(0));
        if whole.is_none() || metadata.mtime.nanoseconds != 0 {
            record(&mut pax, b"mtime", pax_time(metadata.mtime).as_bytes());
        }
        if let Kind::CharDevice { major, minor } | Kind::BlockDevice { major, minor } = metadata.kind
            && !entry.hard_link
        {
            // Linux has 12 bits for the one and 20 for the other: both always fit.
            header.set_device_major(major)?;
            header.set_device_minor(minor)?;
        }
        for (name, value) in entry.attributes {
            record(&mut pax, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
        }

        if !pax.is_empty() {
            let mut before = Header::new_ustar();
            before.set_entry_type(EntryType::XHeader);
            before.as_old_mut().name[..4].copy_from_slice(b"@pax");
            before.set_mode(0o600);
            before.set_uid(0);
            before.set_gid(0);
            before.set_mtime(0);
            before.set_size(pax.len() as u64);
            before.set_cksum();
            self.output.write_all(before.as_bytes())?;
            self.output.write_all(&pax)?;
            self.pad(pax.len() as u64)?;
        }
        header.set_cksum();
        self.output.write_all(header.as_bytes())
    }

    /// Writes exactly `size` bytes of an open file, as the entry before said: zeros where it has become shorter.
    /// False if it was not of that size any more.
    pub(crate) fn content(&mut self, file: &OwnedFd, size: u64) -> Result<bool, Failure> {
        let mut left = size;
        let mut whole = true;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            let mut got = match read(file, &mut self.buffer[..wanted]) {
                Err(Errno::INTR) => continue,
                // A file that vanished on a network file system has not become an entry that vanished: its header is
                // written.
                Err(Errno::NOENT) => return Err(Errno::STALE.into()),
                got => got?,
            };
            if got == 0 {
                whole = false;
                self.buffer[..wanted].fill(0);
                got = wanted;
            }
            self.output.write_all(&self.buffer[..got])?;
            left -= got as u64;
        }
        if whole {
            whole = matches!(read(file, &mut self.buffer[..1]), Ok(0));
        }
        self.pad(size)?;
        Ok(whole)
    }

    /// Writes the end marker and flushes.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if over == 0 {
            return Ok(());
        }
        self.output.write_all(&[0; BLOCK][over..])
    }
}

fn entry_type(entry: &Entry<'_>) -> EntryType {
    if entry.hard_link {
        return EntryType::Link;
    }
    match entry.metadata.kind {
        Kind::File | Kind::Socket => EntryType::Regular,
        Kind::Directory => EntryType::Directory,
        Kind::Symlink => EntryType::Symlink,
        Kind::Fifo => EntryType::Fifo,
        Kind::CharDevice { .. } => EntryType::Char,
        Kind::BlockDevice { .. } => EntryType::Block,
    }
}

/// As much of a name as the field holds; all of it in a record if that is not all.
fn copy_name(field: &mut [u8; NAME], name: &[u8], key: &[u8], pax: &mut Vec<u8>) {
    let fits = name.len().min(NAME);
    field[..fits].copy_from_slice(&name[..fits]);
    if fits < name.len() {
        record(pax, key, name);
    }
}

fn fitting(number: u64, largest: u64, key: &[u8], pax: &mut Vec<u8>) -> u64 {
    if number <= largest {
        return number;
    }
    record(pax, key, number.to_string().as_bytes());
    0
}

/// `length key=value\n`, where the length counts the record with its own digits.
fn record(pax: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + digits(length) {
        length = rest + digits(length);
    }
    pax.extend_from_slice(format!("{length} ").as_bytes());
    pax.extend_from_slice(key);
    pax.push(b'=');
    pax.extend_from_slice(value);
    pax.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.to_string().len()
}

/// Seconds with nine decimals; half a second before -12 is `-12.5`.
fn pax_time(time: Time) -> String {
    match time {
        Time { seconds, nanoseconds: 0 } => seconds.to_string(),
        Time { seconds: 0.., nanoseconds } => format!("{}.{nanoseconds:09}", time.seconds),
        Time { seconds, nanoseconds } => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for size in 0..1100 {
            let mut pax = Vec::new();
            record(&mut pax, b"k", &vec![b'v'; size]);
            let stated: usize = std::str::from_utf8(&pax).unwrap().split(' ').next().unwrap().parse().unwrap();
            assert_eq!(stated, pax.len());
        }
    }

    #[test]
    fn times_before_1970_are_written_as_their_distance() {
        let text = |seconds, nanoseconds| pax_time(Time { seconds, nanoseconds });
        assert_eq!(text(-1, 750_000_000), "-0.250000000");
        assert_eq!(text(-3, 750_000_000), "-2.250000000");
        assert_eq!(text(-3, 0), "-3");
        assert_eq!(text(3, 5), "3.000000005");
    }
}
