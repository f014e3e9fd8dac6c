//! The skeleton: a small tree in memory, its fingerprint, and the folder that it becomes.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sandbar_core::{Context as _, Result};

use super::{OPERATION, gather::Host, made};
use crate::{
    image::{digest::Hasher, paths::Paths, privilege::Privilege, temporary::TemporaryFolder},
    system,
};

/// The digits of a fingerprint: 128 bits.
pub(super) const FINGERPRINT_DIGITS: usize = 32;

/// Changes when the way of building does, so that an update of sandbar builds anew.
pub(super) const FORMAT: u32 = 1;

/// One name in the skeleton.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Relative to the root.
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) node: Node,
}

/// What it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    File {
        content: Vec<u8>,
        /// Seconds and nanoseconds. Not a part of the fingerprint: the same content is the same skeleton.
        mtime: (i64, i64),
    },
    Link(PathBuf),
}

impl Item {
    pub(super) fn folder(path: impl Into<PathBuf>, mode: u32) -> Self {
        Self { path: path.into(), mode, node: Node::Folder }
    }

    pub(super) fn link(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), mode: 0o777, node: Node::Link(target.into()) }
    }
}

/// Makes the skeleton of a host unless it is there; its fingerprint.
pub(super) fn keep(paths: &Paths, host: &Host) -> Result<String> {
    let items = merged(host);
    let fingerprint = fingerprint(host, &items);
    let target = paths.host_skeleton(&fingerprint);
    let boot = system::boot_id()?;
    let there = fs::read_to_string(target.join("boot")).ok();
    if there.as_ref() == Some(&boot) {
        return Ok(fingerprint);
    }
    let folder = TemporaryFolder::new(paths)?;
    let made = folder.path().join("skeleton");
    let write = || -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(&made)?;
        write_tree(&items, &made.join("fs"))?;
        fs::write(made.join("boot"), &boot)
    };
    write().context(OPERATION, || format!("cannot make {}", target.display()))?;
    // One that was written before the last start of the machine may have been on its way to the disk when that went
    // down, as nobody waited for it. Whoever mounts it now did so in this boot, so it is not here.
    let flags = if target.exists() { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    let renamed = match renameat_with(CWD, &made, CWD, &target, flags) {
        // Some file systems have neither (NFS, old FUSE).
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => replace(&made, &target, &folder),
        renamed => renamed.map_err(io::Error::from),
    };
    renamed.context(OPERATION, || format!("cannot rename to {}", target.display()))?;
    Ok(fingerprint)
}

fn replace(made: &Path, target: &Path, folder: &TemporaryFolder) -> io::Result<()> {
    if target.exists() {
        fs::rename(target, folder.path().join("old"))?;
    }
    fs::rename(made, target)
}

/// What is made by us, and what of the host does not stand in its way; parents before children.
fn merged(host: &Host) -> Vec<Item> {
    let mut items = made::items(&host.folders);
    let ours: std::collections::BTreeSet<_> = items.iter().map(|item| item.path.clone()).collect();
    items.extend(host.items.iter().filter(|item| !ours.contains(&item.path)).cloned());
    items.sort_by(|one, other| one.path.cmp(&other.path));
    items
}

fn fingerprint(host: &Host, items: &[Item]) -> String {
    let mut hasher = Hasher::default();
    // Each part behind its length, so that no two different hosts read the same.
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    part(&FORMAT.to_le_bytes());
    // The release counts even where /etc/os-release is not a link to it.
    part(&fs::read("/usr/lib/os-release").unwrap_or_default());
    for folder in &host.folders.folders {
        part(folder.as_os_str().as_bytes());
    }
    for item in items {
        part(item.path.as_os_str().as_bytes());
        part(&item.mode.to_le_bytes());
        match &item.node {
            Node::Folder => part(b"folder"),
            Node::File { content, .. } => {
                part(b"file");
                part(content);
            }
            Node::Link(target) => {
                part(b"link");
                part(target.as_os_str().as_bytes());
            }
        }
    }
    let mut hex = hasher.finish().hex();
    hex.truncate(FINGERPRINT_DIGITS);
    hex
}

fn write_tree(items: &[Item], root: &Path) -> io::Result<()> {
    fs::create_dir(root)?;
    fs::set_permissions(root, Permissions::from_mode(0o755))?;
    for item in items {
        let path = root.join(&item.path);
        match &item.node {
            Node::Folder => {
                fs::create_dir(&path)?;
                fs::set_permissions(&path, Permissions::from_mode(item.mode))?;
            }
            Node::Link(target) => std::os::unix::fs::symlink(target, &path)?,
            Node::File { content, mtime } => {
                let mut file = File::create_new(&path)?;
                file.write_all(content)?;
                file.set_permissions(Permissions::from_mode(item.mode))?;
                file.set_modified(time(*mtime))?;
            }
        }
    }
    let home = root.join("home/sandbox");
    match Privilege::here() {
        Privilege::Root => std::os::unix::fs::chown(&home, Some(made::SANDBOX_USER), Some(made::SANDBOX_USER)),
        // It cannot be given away, and in there nobody is but the sandbox's own users.
        Privilege::User => fs::set_permissions(&home, Permissions::from_mode(0o777)),
    }
}

fn time((seconds, nanoseconds): (i64, i64)) -> SystemTime {
    let fraction = Duration::from_nanos(nanoseconds.unsigned_abs());
    match u64::try_from(seconds) {
        Ok(seconds) => SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + fraction,
        Err(_) => SystemTime::UNIX_EPOCH,
    }
}
