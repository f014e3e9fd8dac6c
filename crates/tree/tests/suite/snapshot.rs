//! Everything about a tree, to be compared.

use sandbar_tree::{Base, Kind, Symlinks, Time};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// One file of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: Time,
    pub(crate) content: Vec<u8>,
    pub(crate) target: Option<PathBuf>,
    pub(crate) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name, in order, of the same file.
    pub(crate) same_as: PathBuf,
}

pub(crate) type Snapshot = BTreeMap<PathBuf, Fact>;

/// Takes a tree's snapshot. Needs to read everything in it.
pub(crate) fn snapshot(root: &Path) -> Snapshot {
    let base = Base::jail(File::open(root).unwrap(), None);
    let mut facts = Snapshot::new();
    let mut first_names = HashMap::new();
    let mut pending = vec![PathBuf::from(".")];
    while let Some(path) = pending.pop() {
        let metadata = base.stat(&path, Symlinks::Keep).unwrap();
        let full = root.join(&path);
        if metadata.kind == Kind::Directory {
            let names = fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name());
            pending.extend(names.map(|name| if path == Path::new(".") { name.into() } else { path.join(name) }));
        }
        first_names
            .entry(metadata.inode)
            .and_modify(|first: &mut PathBuf| *first = path.clone().min(first.clone()))
            .or_insert(path.clone());
        let fact = Fact {
            kind: metadata.kind,
            mode: metadata.mode,
            owner: (metadata.uid, metadata.gid),
            mtime: metadata.mtime,
            content: if metadata.kind == Kind::File { fs::read(&full).unwrap() } else { Vec::new() },
            target: (metadata.kind == Kind::Symlink).then(|| base.read_link(&path).unwrap()),
            attributes: attributes(&full),
            same_as: path.clone(),
        };
        facts.insert(path.clone(), fact);
        facts.get_mut(&path).unwrap().same_as = metadata.inode.to_string().into();
    }
    let names: HashMap<PathBuf, PathBuf> = first_names.into_iter().map(|(inode, name)| (PathBuf::from(inode.to_string()), name)).collect();
    for fact in facts.values_mut() {
        fact.same_as = names[&fact.same_as].clone();
    }
    facts
}

/// The extended attributes of a file that is not followed.
pub(crate) fn attributes(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, list.as_mut_slice()).unwrap();
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
            value.truncate(length);
            (name.to_vec(), value)
        })
        .collect()
}

/// Sets an extended attribute of a file that is not followed.
pub(crate) fn set_attribute(path: &Path, name: &[u8], value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// The names in a snapshot, for short comparisons.
pub(crate) fn names(snapshot: &Snapshot) -> Vec<&[u8]> {
    snapshot.keys().map(|path| path.as_os_str().as_bytes()).collect()
}
