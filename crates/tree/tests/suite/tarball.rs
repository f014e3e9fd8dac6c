//! Archives written by hand, as honest programs never would.

use tar::{EntryType, Header};

/// An archive in the making.
#[derive(Clone, Default)]
pub(crate) struct Tarball {
    bytes: Vec<u8>,
}

impl Tarball {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Any entry: the header as given, with its checksum put right, and content, padded.
    pub(crate) fn raw(mut self, mut header: Header, content: &[u8]) -> Self {
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(content);
        let padded = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(padded, 0);
        self
    }

    pub(crate) fn entry(self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        self.raw(header(kind, name, link, content.len() as u64), content)
    }

    pub(crate) fn file(self, name: &str, content: &str) -> Self {
        self.entry(EntryType::Regular, name, "", content.as_bytes())
    }

    pub(crate) fn directory(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, "", b"")
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, target, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"")
    }

    pub(crate) fn device(self, name: &str, major: u32, minor: u32) -> Self {
        let mut header = header(EntryType::Char, name, "", 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.raw(header, b"")
    }

    /// PAX records for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (rest..).find(|length| *length == rest + length.to_string().len()).unwrap();
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.entry(EntryType::XHeader, "pax", "", &data)
    }

    /// The archive without an end marker.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.bytes
    }

    /// The archive.
    pub(crate) fn done(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(&[0; 1024]);
        self.bytes
    }
}

/// A header with any name at all.
pub(crate) fn header(kind: EntryType, name: &str, link: &str, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header.set_size(size);
    header
}
