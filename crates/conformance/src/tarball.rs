//! Tar streams, well-formed and hostile.

use std::io::{self, Read};

use tar::{Archive, Builder, EntryType, Header};

/// Bytes of a name in a plain header.
const PLAIN: usize = 100;

/// One entry of a tar stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) owner: (u64, u64),
    pub(crate) modified: u64,
    pub(crate) link: Option<String>,
    pub(crate) content: Vec<u8>,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Entry {
    pub(crate) fn file(name: &str, content: &[u8]) -> Self {
        Self {
            name: name.to_owned(),
            kind: EntryType::Regular,
            mode: 0o644,
            owner: (0, 0),
            modified: 1_600_000_000,
            link: None,
            content: content.to_vec(),
            xattrs: Vec::new(),
        }
    }

    pub(crate) fn folder(name: &str) -> Self {
        Self { kind: EntryType::Directory, mode: 0o755, ..Self::file(name, b"") }
    }

    pub(crate) fn link(name: &str, target: &str) -> Self {
        Self { kind: EntryType::Symlink, mode: 0o777, link: Some(target.to_owned()), ..Self::file(name, b"") }
    }

    pub(crate) fn hard_link(name: &str, target: &str) -> Self {
        Self { kind: EntryType::Link, link: Some(target.to_owned()), ..Self::file(name, b"") }
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }
}

/// Packs entries as they are: names are not checked, since hostile ones are wanted.
pub(crate) fn pack(entries: &[Entry]) -> io::Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut records: Vec<(String, &[u8])> =
            entry.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice())).collect();
        // What is longer than a plain header holds.
        let long = [("path", Some(&entry.name)), ("linkpath", entry.link.as_ref())];
        let long = long.into_iter().filter_map(|(key, text)| Some((key, text.filter(|text| text.len() > PLAIN)?)));
        records.extend(long.map(|(key, text)| (key.to_owned(), text.as_bytes())));
        if !records.is_empty() {
            builder.append_pax_extensions(records.iter().map(|(name, value)| (name.as_str(), *value)))?;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        header.set_mtime(entry.modified);
        header.set_size(entry.content.len() as u64);
        write_raw(&mut header.as_old_mut().name, &entry.name);
        if let Some(link) = &entry.link {
            write_raw(&mut header.as_old_mut().linkname, link);
        }
        header.set_cksum();
        builder.append(&header, entry.content.as_slice())?;
    }
    builder.into_inner()
}

fn write_raw(field: &mut [u8; PLAIN], text: &str) {
    let length = text.len().min(PLAIN);
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
}

/// Unpacks a stream; names lose a leading `./` and a trailing `/`.
pub(crate) fn unpack(bytes: &[u8]) -> io::Result<Vec<Entry>> {
    let mut archive = Archive::new(bytes);
    let mut entries = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        let mut xattrs = Vec::new();
        for extension in entry.pax_extensions()?.into_iter().flatten() {
            let extension = extension?;
            if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) {
                xattrs.push((name.to_owned(), extension.value_bytes().to_vec()));
            }
        }
        let header = entry.header();
        entries.push(Entry {
            name: String::from_utf8_lossy(&entry.path_bytes()).trim_start_matches("./").trim_end_matches('/').to_owned(),
            kind: header.entry_type(),
            mode: header.mode()? & 0o7777,
            owner: (header.uid()?, header.gid()?),
            modified: header.mtime()?,
            link: entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned()),
            content,
            xattrs,
        });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let mut marked = Entry::file("marked", b"content").mode(0o750);
        marked.xattrs = vec![("user.colour".to_owned(), b"green".to_vec())];
        let entries = [
            Entry::folder("a"),
            marked,
            Entry::link("link", "../anywhere"),
            Entry::hard_link("hard", "marked"),
            Entry::file(&"n".repeat(150), b""),
        ];
        assert_eq!(unpack(&pack(&entries).unwrap()).unwrap(), entries);
    }
}
