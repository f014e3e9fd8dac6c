//! Reading the host: its folders, and what of `/etc` is shown.

use std::{
    fs::{self, Metadata},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::OFlags;
use sandbar_core::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::{
    OPERATION,
    allowed::{self, ALLOWED},
    skeleton::{Item, Node},
};

/// No file of `/etc` that programs need is larger; a certificate bundle has a quarter of a megabyte.
const LARGEST_FILE: u64 = 8 << 20;

/// When the allow-list leads to more than this, the rest is left out, and logged.
const MOST_ITEMS: usize = 20_000;
const MOST_BYTES: u64 = 64 << 20;

/// How deep folders go.
const DEEPEST: usize = 16;

/// What the host has to show.
pub(super) struct Host {
    pub(super) folders: Folders,
    /// What is copied from `/etc`, in the order of paths.
    pub(super) items: Vec<Item>,
    /// Everything that was looked at and can change without its folder changing.
    pub(super) watched: Vec<Watched>,
}

/// The host's folders of programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Folders {
    /// Absolute paths of real folders.
    pub(super) folders: Vec<PathBuf>,
    /// Names in the root that lead into one of those, with their targets.
    pub(super) links: Vec<(String, PathBuf)>,
}

/// A file or folder as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Watched {
    pub(super) path: PathBuf,
    identity: Option<[i64; 7]>,
}

impl Watched {
    pub(super) fn of(path: PathBuf) -> Self {
        let identity = fs::symlink_metadata(&path).ok().map(|metadata| identity(&metadata));
        Self { path, identity }
    }

    /// Whether it is still the same file, unchanged.
    pub(super) fn stands(&self) -> bool {
        fs::symlink_metadata(&self.path).ok().map(|metadata| identity(&metadata)) == self.identity
    }
}

/// The time of change cannot be set by programs, so contents, mode and owner are all covered.
fn identity(metadata: &Metadata) -> [i64; 7] {
    [
        metadata.dev().cast_signed(),
        metadata.ino().cast_signed(),
        metadata.size().cast_signed(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec(),
    ]
}

impl Host {
    /// Reads what is allowed below `root` (`/`, but for tests).
    pub(super) fn gather(root: &Path) -> Result<Self> {
        let mut host = Self { folders: folders(root)?, items: Vec::new(), watched: Vec::new() };
        let etc = root.join("etc");
        let mut gathering = Gathering { host: &mut host, root, bytes: 0 };
        gathering.watch(&etc);
        for pattern in ALLOWED {
            let (before, last) = pattern.rsplit_once('/').map_or(("", *pattern), |(before, last)| (before, last));
            gathering.pattern(before, last)?;
        }
        host.items.sort_by(|one, other| one.path.cmp(&other.path));
        host.items.dedup_by(|one, other| one.path == other.path);
        Ok(host)
    }
}

/// The host's folders of programs and libraries: `/usr`, and what of `/bin`, `/sbin`, `/lib*` is not a link into it.
pub(super) fn folders(root: &Path) -> Result<Folders> {
    let mut found = Folders::default();
    let listing = || format!("cannot list {}", root.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(root).context(OPERATION, listing)? {
        let name = entry.context(OPERATION, listing)?.file_name();
        if let Some(name) = name.to_str()
            && (matches!(name, "usr" | "bin" | "sbin")
                || name.strip_prefix("lib").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_alphanumeric())))
        {
            names.push(name.to_owned());
        }
    }
    names.sort_unstable();
    for name in names {
        let path = root.join(&name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            found.folders.push(Path::new("/").join(name));
        } else if metadata.is_symlink()
            && let Ok(target) = fs::read_link(&path)
        {
            found.links.push((name, target));
        }
    }
    Ok(found)
}

struct Gathering<'a> {
    host: &'a mut Host,
    root: &'a Path,
    bytes: u64,
}

impl Gathering<'_> {
    /// Takes what a pattern means, and the folders above it.
    fn pattern(&mut self, before: &str, last: &str) -> Result<()> {
        let folder = self.root.join("etc").join(before);
        // A link on the way leads somewhere that the list allows in its own right, or does not.
        for ancestor in Path::new(before).ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
            if !fs::symlink_metadata(self.root.join("etc").join(ancestor)).is_ok_and(|metadata| metadata.is_dir()) {
                return Ok(());
            }
        }
        let mut names = Vec::new();
        if last.contains('*') {
            let Ok(entries) = fs::read_dir(&folder) else { return Ok(()) };
            for entry in entries.flatten() {
                if let Some(name) = entry.file_name().to_str()
                    && allowed::matches(last, name)
                {
                    names.push(name.to_owned());
                }
            }
        } else if fs::symlink_metadata(folder.join(last)).is_ok() {
            names.push(last.to_owned());
        }
        for name in &names {
            let taken = self.take(&folder.join(name), DEEPEST)?;
            if taken && !before.is_empty() {
                for ancestor in Path::new(before).ancestors().filter(|ancestor| !ancestor.as_os_str().is_empty()) {
                    self.watch(&self.root.join("etc").join(ancestor));
                    self.host.items.push(Item::folder(Path::new("etc").join(ancestor), 0o755));
                }
            }
        }
        Ok(())
    }

    /// Takes a file, a link, or a folder with everything below it; tells whether there was something to take.
    fn take(&mut self, path: &Path, depth: usize) -> Result<bool> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if allowed::is_private(&name) {
            return Ok(false);
        }
        if self.host.items.len() >= MOST_ITEMS || self.bytes >= MOST_BYTES || depth == 0 {
            tracing::warn!(path = %path.display(), "left out of the image `host`: too much");
            return Ok(false);
        }
        // Packages come and go while we look.
        let Ok(metadata) = fs::symlink_metadata(path) else { return Ok(false) };
        let inside = path.strip_prefix(self.root).unwrap_or(path).to_owned();
        let mode = metadata.mode() & 0o7777;
        if metadata.is_symlink() {
            let Ok(target) = fs::read_link(path) else { return Ok(false) };
            let shown = self.leads_inside(&inside, &target);
            if shown {
                self.host.items.push(Item::link(inside, target));
            }
            return Ok(shown);
        }
        // What not every user of this host may read is no business of a stranger's code.
        if metadata.is_dir() && mode & 0o005 == 0o005 {
            self.watch(path);
            let Ok(entries) = fs::read_dir(path) else { return Ok(false) };
            self.host.items.push(Item::folder(inside, mode & 0o755));
            for entry in entries.flatten() {
                self.take(&entry.path(), depth - 1)?;
            }
            return Ok(true);
        }
        if metadata.is_file() && mode & 0o004 != 0 && metadata.size() <= LARGEST_FILE {
            self.watch(path);
            let Ok(content) = read(path) else { return Ok(false) };
            if holds_key(&content) {
                tracing::debug!(path = %path.display(), "left out of the image `host`: it holds a private key");
                return Ok(false);
            }
            self.bytes += content.len() as u64;
            let node = Node::File { content, mtime: (metadata.mtime(), metadata.mtime_nsec()) };
            self.host.items.push(Item { path: inside, mode: mode & 0o755, node });
            return Ok(true);
        }
        Ok(false)
    }

    fn watch(&mut self, path: &Path) {
        self.host.watched.push(Watched::of(path.to_owned()));
    }

    /// Whether a link leads to where a sandbox has something: a link to anywhere else would be dead, and would tell a
    /// path of this host.
    fn leads_inside(&self, link: &Path, target: &Path) -> bool {
        let mut place = if target.is_absolute() { PathBuf::new() } else { link.parent().unwrap_or(Path::new("")).to_owned() };
        for component in target.components() {
            match component {
                Component::Normal(name) => place.push(name),
                // The root's parent is the root.
                Component::ParentDir => drop(place.pop()),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        let Some(Component::Normal(first)) = place.components().next() else { return false };
        let folders = &self.host.folders;
        place == Path::new("dev/null")
            || first == "etc"
            || folders.folders.iter().any(|folder| folder.file_name() == Some(first))
            || folders.links.iter().any(|(name, _)| name.as_str() == first)
    }
}

/// Reads a regular file that is what it was a moment ago, or else nothing.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = fs::File::options().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.mode() & 0o004 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut content = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST_FILE { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(content) }
}

/// Whether a text holds a key that somebody put beside the certificates: a line `-----BEGIN … PRIVATE KEY-----`.
fn holds_key(content: &[u8]) -> bool {
    content
        .split(|byte| *byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .any(|line| line.starts_with(b"-----BEGIN") && line.ends_with(b"PRIVATE KEY-----"))
}
