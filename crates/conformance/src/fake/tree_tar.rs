//! Trees as tar streams: for `put_dir` and `get_dir`, and as the layer of a checkpoint.

use std::io::{self, Read};

use sandbar_core::{Error, ErrorKind, FileKind, PutOptions, Result};
use tar::{Archive, Builder, EntryType, Header};

use super::tree::{Node, Tree, fail};

fn corrupt(error: io::Error) -> Error {
    Error::new(ErrorKind::Corrupt, "tree", "the tar stream cannot be read").with_source(error)
}

impl Tree {
    /// What lies below a directory, with names relative to it.
    pub(super) fn pack(&self, at: &str) -> io::Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        let cut = if at == "/" { 1 } else { at.len() + 1 };
        for (path, node) in self.below(at) {
            let name = &path[cut..];
            let mut header = Header::new_gnu();
            header.set_mode(node.mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(u64::try_from(node.modified_ns / 1_000_000_000).unwrap_or_default());
            header.set_size(0);
            match (node.kind, &node.target) {
                (FileKind::Symlink, Some(target)) => {
                    header.set_entry_type(EntryType::Symlink);
                    builder.append_link(&mut header, name, target)?;
                }
                (FileKind::Directory, _) => {
                    header.set_entry_type(EntryType::Directory);
                    builder.append_data(&mut header, name, io::empty())?;
                }
                _ => {
                    header.set_entry_type(EntryType::Regular);
                    header.set_size(node.content.len() as u64);
                    builder.append_data(&mut header, name, node.content.as_slice())?;
                }
            }
        }
        builder.into_inner()
    }

    /// Unpacks below a directory, which is made if missing. Nothing is changed unless all of it can be unpacked.
    pub(super) fn unpack(&mut self, workdir: &str, path: &str, options: &PutOptions, bytes: &[u8]) -> Result<()> {
        let mut tree = self.clone();
        match tree.directory(workdir, path) {
            Err(error) if error.kind() == ErrorKind::NotFound => tree.make_dir(workdir, path, options.make_parents, None)?,
            other => drop(other?),
        }
        let base = tree.directory(workdir, path)?;
        for entry in Archive::new(bytes).entries().map_err(corrupt)? {
            let mut entry = entry.map_err(corrupt)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).trim_end_matches('/').to_owned();
            let (folder, last) = tree.beneath(&base, &name)?;
            let Some(last) = last else { continue };
            let at = format!("{}/{last}", folder.trim_end_matches('/'));
            let header = entry.header().clone();
            let mode = header.mode().map_err(corrupt)? & 0o7777;
            let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned()).unwrap_or_default();
            let mut node = match header.entry_type() {
                EntryType::Directory if tree.nodes.get(&at).is_some_and(|node| node.kind == FileKind::Directory) => {
                    if let Some(node) = tree.nodes.get_mut(&at) {
                        node.mode = mode;
                    }
                    continue;
                }
                EntryType::Directory => Node::new(FileKind::Directory, mode),
                EntryType::Symlink => Node::link(&link),
                EntryType::Link => {
                    let (folder, last) = tree.beneath(&base, &link)?;
                    let source = format!("{}/{}", folder.trim_end_matches('/'), last.unwrap_or_default());
                    tree.nodes.get(&source).cloned().ok_or_else(|| fail(ErrorKind::InvalidInput, "a hard link to nothing", &name))?
                }
                EntryType::Regular => {
                    let mut content = Vec::new();
                    entry.read_to_end(&mut content).map_err(corrupt)?;
                    if content.len() as u64 != header.size().map_err(corrupt)? {
                        return Err(fail(ErrorKind::Corrupt, "the tar stream is cut off", &name));
                    }
                    Node::file(content, mode)
                }
                _ => return Err(fail(ErrorKind::InvalidInput, "an entry of a kind that is not taken", &name)),
            };
            node.modified_ns = i64::try_from(header.mtime().map_err(corrupt)?).unwrap_or_default().saturating_mul(1_000_000_000);
            tree.insert(at, node, &name)?;
        }
        *self = tree;
        Ok(())
    }

    /// Where an entry goes: its folder, made if missing, and its last part. No link is followed, and nothing leads above `base`.
    fn beneath(&mut self, base: &str, name: &str) -> Result<(String, Option<String>)> {
        if name.starts_with('/') || name.split('/').any(|part| part == "..") {
            return Err(fail(ErrorKind::InvalidInput, "the entry lies outside of the tree", name));
        }
        let mut parts: Vec<&str> = name.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        let last = parts.pop().map(str::to_owned);
        let mut at = base.to_owned();
        for part in parts {
            at = format!("{}/{part}", at.trim_end_matches('/'));
            match self.nodes.get(&at).map(|node| node.kind) {
                Some(FileKind::Directory) => {}
                Some(_) => return Err(fail(ErrorKind::InvalidInput, "the entry's folder is none", name)),
                None => self.insert(at.clone(), Node::new(FileKind::Directory, 0o755), name)?,
            }
        }
        Ok((at, last))
    }
}
