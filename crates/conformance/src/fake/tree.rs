use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use sandbar_core::{DirEntry, Error, ErrorKind, FileKind, FileStat, PutOptions, RemoveOptions, Result};

/// Links followed before a path counts as a loop, as Linux does.
const MOST_LINKS: usize = 40;
/// Bytes of a name, as on every file system of Linux.
const LONGEST_NAME: usize = 255;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) content: Arc<Vec<u8>>,
    pub(super) target: Option<String>,
    pub(super) modified_ns: i64,
}

impl Node {
    pub(super) fn new(kind: FileKind, mode: u32) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        Self { kind, mode, content: Arc::default(), target: None, modified_ns: i64::try_from(now).unwrap_or(i64::MAX) }
    }

    pub(super) fn file(content: Vec<u8>, mode: u32) -> Self {
        Self { content: Arc::new(content), ..Self::new(FileKind::File, mode) }
    }

    pub(super) fn link(target: &str) -> Self {
        Self { target: Some(target.to_owned()), ..Self::new(FileKind::Symlink, 0o777) }
    }

    fn stat(&self) -> FileStat {
        let size = self.target.as_ref().map_or(self.content.len(), String::len) as u64;
        let Self { kind, mode, modified_ns, .. } = *self;
        FileStat { kind, size, mode, uid: 0, gid: 0, modified_ns, symlink_target: self.target.clone() }
    }
}

pub(super) fn fail(kind: ErrorKind, message: &'static str, path: &str) -> Error {
    Error::new(kind, "file", message).with("path", path)
}

/// Files by their absolute paths; every parent of a node is a directory node.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) nodes: BTreeMap<String, Node>,
}

fn join(folder: &str, name: &str) -> String {
    if folder == "/" { format!("/{name}") } else { format!("{folder}/{name}") }
}

fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((folder, _)) => folder,
    }
}

impl Tree {
    pub(super) fn new() -> Self {
        Self { nodes: BTreeMap::from([("/".to_owned(), Node::new(FileKind::Directory, 0o755))]) }
    }

    /// The path without `.`, `..` and links; all but its last part exist.
    pub(super) fn resolve(&self, workdir: &str, path: &str, follow: bool) -> Result<String> {
        let mut parts: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
        let mut at = if path.starts_with('/') { "/".to_owned() } else { workdir.to_owned() };
        let mut links = 0;
        while let Some(part) = parts.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    at = parent(&at).to_owned();
                    continue;
                }
                _ if part.len() > LONGEST_NAME => return Err(fail(ErrorKind::InvalidInput, "the name is too long", path)),
                _ => {}
            }
            match self.nodes.get(&at).map(|node| node.kind) {
                Some(FileKind::Directory) => {}
                Some(_) => return Err(fail(ErrorKind::InvalidInput, "not a directory", path)),
                None => return Err(fail(ErrorKind::NotFound, "no such directory", path)),
            }
            let next = join(&at, &part);
            let is_last = parts.iter().all(|part| part.is_empty() || part == ".");
            match self.nodes.get(&next).and_then(|node| node.target.as_ref()) {
                Some(target) if follow || !is_last => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(fail(ErrorKind::InvalidInput, "too many links", path));
                    }
                    if target.starts_with('/') {
                        "/".clone_into(&mut at);
                    }
                    parts.extend(target.rsplit('/').map(str::to_owned));
                }
                _ => at = next,
            }
        }
        Ok(at)
    }

    pub(super) fn node(&self, workdir: &str, path: &str, follow: bool) -> Result<(String, &Node)> {
        let at = self.resolve(workdir, path, follow)?;
        let node = self.nodes.get(&at).ok_or_else(|| fail(ErrorKind::NotFound, "no such path", path))?;
        Ok((at, node))
    }

    pub(super) fn stat(&self, workdir: &str, path: &str, follow: bool) -> Result<FileStat> {
        Ok(self.node(workdir, path, follow)?.1.stat())
    }

    pub(super) fn directory(&self, workdir: &str, path: &str) -> Result<String> {
        let (at, node) = self.node(workdir, path, true)?;
        if node.kind == FileKind::Directory { Ok(at) } else { Err(fail(ErrorKind::InvalidInput, "not a directory", path)) }
    }

    pub(super) fn read(&self, workdir: &str, path: &str) -> Result<(FileStat, Arc<Vec<u8>>)> {
        let (_, node) = self.node(workdir, path, true)?;
        if node.kind == FileKind::File {
            Ok((node.stat(), Arc::clone(&node.content)))
        } else {
            Err(fail(ErrorKind::InvalidInput, "not a regular file", path))
        }
    }

    pub(super) fn write(&mut self, workdir: &str, path: &str, options: &PutOptions, content: Vec<u8>) -> Result<()> {
        if options.make_parents
            && let Some((folder, _)) = path.trim_end_matches('/').rsplit_once('/')
            && !folder.is_empty()
        {
            self.make_dir(workdir, folder, true, None)?;
        }
        if options.no_replace && self.node(workdir, path, false).is_ok() {
            return Err(fail(ErrorKind::AlreadyExists, "the path exists", path));
        }
        let at = self.resolve(workdir, path, true)?;
        let old = self.nodes.get(&at);
        if old.is_some_and(|node| node.kind == FileKind::Directory) {
            return Err(fail(ErrorKind::InvalidInput, "a directory is in its place", path));
        }
        let mode = options.mode.or(old.map(|node| node.mode)).unwrap_or(0o644);
        self.insert(at, Node::file(content, mode), path)
    }

    /// Puts a node where its parent is.
    pub(super) fn insert(&mut self, at: String, node: Node, path: &str) -> Result<()> {
        match self.nodes.get(parent(&at)).map(|node| node.kind) {
            Some(FileKind::Directory) => {}
            Some(_) => return Err(fail(ErrorKind::InvalidInput, "not a directory", path)),
            None => return Err(fail(ErrorKind::NotFound, "no such directory", path)),
        }
        self.nodes.insert(at, node);
        Ok(())
    }

    /// What lies below a directory, at any depth.
    pub(super) fn below(&self, at: &str) -> impl Iterator<Item = (&str, &Node)> {
        let prefix = if at == "/" { at.to_owned() } else { format!("{at}/") };
        let start = prefix.clone();
        self.nodes
            .range(start..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .filter(|(path, _)| *path != "/")
            .map(|(path, node)| (path.as_str(), node))
    }

    pub(super) fn read_dir(&self, workdir: &str, path: &str) -> Result<Vec<DirEntry>> {
        let at = self.directory(workdir, path)?;
        let children = self.below(&at).filter(|(child, _)| parent(child) == at);
        let mut entries: Vec<DirEntry> = children
            .map(|(child, node)| DirEntry { name: child.rsplit('/').next().unwrap_or_default().to_owned(), stat: node.stat() })
            .collect();
        entries.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(entries)
    }

    pub(super) fn make_dir(&mut self, workdir: &str, path: &str, parents: bool, mode: Option<u32>) -> Result<()> {
        if parents {
            let mut so_far = if path.starts_with('/') { "/".to_owned() } else { workdir.to_owned() };
            for part in path.split('/').filter(|part| !part.is_empty()) {
                let at = self.resolve(&so_far, part, true)?;
                match self.nodes.get(&at).map(|node| node.kind) {
                    Some(FileKind::Directory) => {}
                    Some(_) => return Err(fail(ErrorKind::AlreadyExists, "a file is in its place", path)),
                    None => self.insert(at.clone(), Node::new(FileKind::Directory, mode.unwrap_or(0o755)), path)?,
                }
                so_far = at;
            }
            return Ok(());
        }
        let at = self.resolve(workdir, path, false)?;
        if self.nodes.contains_key(&at) {
            return Err(fail(ErrorKind::AlreadyExists, "the path exists", path));
        }
        self.insert(at, Node::new(FileKind::Directory, mode.unwrap_or(0o755)), path)
    }

    pub(super) fn rename(&mut self, workdir: &str, from: &str, to: &str, no_replace: bool) -> Result<()> {
        let (old, _) = self.node(workdir, from, false)?;
        let new = self.resolve(workdir, to, false)?;
        if new.starts_with(&format!("{old}/")) {
            return Err(fail(ErrorKind::InvalidInput, "a directory cannot be moved into itself", to));
        }
        if no_replace && self.nodes.contains_key(&new) {
            return Err(fail(ErrorKind::AlreadyExists, "the path exists", to));
        }
        let moved: Vec<String> = self.below(&old).map(|(path, _)| path.to_owned()).chain([old.clone()]).collect();
        for path in moved {
            if let Some(node) = self.nodes.remove(&path) {
                self.nodes.insert(format!("{new}{}", &path[old.len()..]), node);
            }
        }
        Ok(())
    }

    pub(super) fn symlink(&mut self, workdir: &str, target: &str, path: &str) -> Result<()> {
        let at = self.resolve(workdir, path, false)?;
        if self.nodes.contains_key(&at) {
            return Err(fail(ErrorKind::AlreadyExists, "the path exists", path));
        }
        self.insert(at, Node::link(target), path)
    }

    pub(super) fn remove(&mut self, workdir: &str, path: &str, options: RemoveOptions) -> Result<()> {
        let at = match self.node(workdir, path, false) {
            Ok((at, _)) => at,
            Err(error) if options.missing_ok && error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let within: Vec<String> = self.below(&at).map(|(path, _)| path.to_owned()).collect();
        if !options.recursive && !within.is_empty() {
            return Err(fail(ErrorKind::InvalidInput, "the directory is not empty", path));
        }
        for path in within.into_iter().chain([at]) {
            self.nodes.remove(&path);
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.nodes.values().map(|node| node.content.len() as u64).sum()
    }
}
