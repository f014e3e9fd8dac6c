//! A tar stream as a sequence of records, with what it may cost bounded before it is spent.
//!
//! The framing is ours and not the `tar` crate's, because that one reads a long name or a PAX header of any stated
//! size into memory, and splits PAX records by line.

use crate::error::{Error, ErrorKind, Result};
use crate::record::{self, Extensions, Record};
use crate::unpack::Limits;
use std::io::{self, Read};
use tar::Header;

const BLOCK: usize = 512;

/// The most that the records before one entry (long names, PAX) may hold together. The largest thing in them is one
/// extended attribute of at most 64 KiB each.
const EXTENSION_BYTES: u64 = 1 << 20;

/// How many such records there may be before one entry; a sane archive has up to three.
const EXTENSION_RECORDS: u32 = 8;

/// A tar stream that is being read.
pub(crate) struct Archive<Input> {
    input: Input,
    entries_left: u64,
    bytes_left: u64,
    limits: Limits,
    /// Content of the current entry not read yet, and the padding behind it.
    content: u64,
    padding: u64,
}

impl<Input: Read> Archive<Input> {
    /// Starts at the first header.
    pub(crate) fn new(input: Input, limits: Limits) -> Self {
        Self { input, entries_left: limits.entries, bytes_left: limits.bytes, limits, content: 0, padding: 0 }
    }

    /// The next entry; what is left of the one before is skipped. `None` at the end marker, behind which nothing is
    /// read. A stream that ends without one was cut off, and is an error.
    pub(crate) fn next(&mut self) -> Result<Option<Record>> {
        let mut extensions = Extensions::default();
        let mut extension_bytes = 0;
        let mut extension_records = 0;
        loop {
            self.skip()?;
            let Some(header) = self.header()? else {
                if extension_records > 0 {
                    return Err(malformed("archive ends in the middle of an entry"));
                }
                return Ok(None);
            };
            let letter = header.as_old().linkflag[0];
            if !matches!(letter, b'x' | b'g' | b'L' | b'K') {
                self.count_entry()?;
                let record = record::record(&header, extensions)?;
                self.begin(record.size)?;
                return Ok(Some(record));
            }
            extension_records += 1;
            let size = record::own_size(&header)?;
            extension_bytes += size.min(EXTENSION_BYTES + 1);
            if extension_records > EXTENSION_RECORDS || extension_bytes > EXTENSION_BYTES {
                let reason = "an entry has more than 1 MiB of extended headers";
                return Err(Error::new(ErrorKind::LimitExceeded, "unpack", "", reason));
            }
            self.begin(size)?;
            // Global records carry comments (`git archive`); as Go does, their values are not applied to entries.
            if letter == b'g' {
                self.count_entry()?;
                continue;
            }
            let mut data = Vec::new();
            while self.content > 0 {
                let start = data.len();
                let more = usize::try_from(self.content).unwrap_or(BLOCK).min(64 * 1024);
                data.resize(start + more, 0);
                let read = self.read(&mut data[start..])?;
                data.truncate(start + read);
            }
            match letter {
                b'x' => extensions.add_pax(&data)?,
                b'L' => extensions.set_gnu_path(&data),
                _ => extensions.set_gnu_link(&data),
            }
        }
    }

    /// Reads content of the current entry; 0 at its end and never before it: a stream that ends early is an error.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let wanted = usize::try_from(self.content).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.fill(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(malformed("archive ends in the middle of a file"));
        }
        self.content -= read as u64;
        Ok(read)
    }

    fn skip(&mut self) -> Result<()> {
        let mut scrap = [0; 16 * 1024];
        while self.read(&mut scrap)? > 0 {}
        while self.padding > 0 {
            let wanted = usize::try_from(self.padding).unwrap_or(BLOCK).min(BLOCK);
            let read = self.fill(&mut scrap[..wanted])?;
            if read == 0 {
                return Err(malformed("archive ends in the middle of a block"));
            }
            self.padding -= read as u64;
        }
        Ok(())
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Err(malformed("archive ends without an end marker"));
        }
        if header.as_bytes().iter().all(|byte| *byte == 0) {
            // The marker is two such blocks; some writers spare the second.
            let mut second = [0; BLOCK];
            if self.block(&mut second)? && second.iter().any(|byte| *byte != 0) {
                return Err(malformed("data follows an empty block"));
            }
            return Ok(None);
        }
        if !record::checksum_holds(&header) {
            return Err(malformed("a header's checksum is wrong: not a tar archive, or a damaged one"));
        }
        Ok(Some(header))
    }

    /// A whole block; false if the stream ends before it.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.fill(&mut block[filled..])? {
                0 if filled == 0 => return Ok(false),
                0 => return Err(malformed("archive ends in the middle of a block")),
                read => filled += read,
            }
        }
        Ok(true)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize> {
        loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(read) => return Ok(read.min(buffer.len())),
                Err(error) => return Err(Error::io("read the archive", "", error)),
            }
        }
    }

    fn begin(&mut self, size: u64) -> Result<()> {
        self.bytes_left = self.bytes_left.checked_sub(size).ok_or_else(|| {
            let reason = format!("archive holds more than {} bytes", self.limits.bytes);
            Error::new(ErrorKind::LimitExceeded, "unpack", "", reason)
        })?;
        self.content = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        Ok(())
    }

    fn count_entry(&mut self) -> Result<()> {
        self.entries_left = self.entries_left.checked_sub(1).ok_or_else(|| {
            let reason = format!("archive has more than {} entries", self.limits.entries);
            Error::new(ErrorKind::LimitExceeded, "unpack", "", reason)
        })?;
        Ok(())
    }
}

fn malformed(reason: &'static str) -> Error {
    Error::new(ErrorKind::Malformed, "unpack", "", reason)
}
