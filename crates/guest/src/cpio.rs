//! The archive that the kernel unpacks into its first file system (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::io::{self, Write};

/// A `newc` archive that is being written.
pub(crate) struct Cpio<Output> {
    output: Output,
    entries: u32,
    written: u64,
}

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;

impl<Output: Write> Cpio<Output> {
    pub(crate) fn new(output: Output) -> Self {
        Self { output, entries: 0, written: 0 }
    }

    /// Adds a folder. Those above it must come first.
    pub(crate) fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        self.entry(path, FOLDER | mode, (0, 0), &[])
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | mode, (0, 0), bytes)
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, mode: u32, device: (u32, u32)) -> io::Result<()> {
        self.entry(path, 0o020_000 | mode, device, &[])
    }

    /// Writes the end, and fills up to a multiple of 512 bytes, so that another archive may follow.
    pub(crate) fn finish(mut self) -> io::Result<Output> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.pad(512)?;
        Ok(self.output)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        let size = u32::try_from(bytes.len()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a file of more than 4 GiB"))?;
        self.entries += 1;
        // Number, mode, user, group, links, time, size, device of the file system, device, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, path.len() as u32 + 1, 0];
        let mut header = String::from("070701");
        fields.iter().for_each(|field| header.push_str(&format!("{field:08x}")));
        self.write(header.as_bytes())?;
        self.write(path.as_bytes())?;
        self.write(&[0])?;
        self.pad(4)?;
        self.write(bytes)?;
        self.pad(4)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.output.write_all(bytes)
    }

    fn pad(&mut self, to: u64) -> io::Result<()> {
        let missing = usize::try_from(self.written.next_multiple_of(to) - self.written).unwrap_or_default();
        self.write(&[0; 512][..missing])
    }
}
