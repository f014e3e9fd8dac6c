//! A tree beneath a base, written as a tar stream.

mod merge;

pub use merge::{Below, MergeOptions, Shown, pack_merged};

use crate::beneath::{Base, Tree};
use crate::emit::{Emitter, Entry};
use crate::entry_path::WHITEOUT;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::ladder::Ladder;
use crate::metadata::{Identity, Kind, Metadata};
use crate::nofollow;
use crate::system;
use crate::xattr::{Attributes, CAPABILITY, OverlayNamespace, is_overlay};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// How many changed paths a report names.
const CHANGED_TOLD: usize = 64;

/// The longest path an archive gets: what [`unpack`](crate::unpack()) takes by default.
const PATH_BYTES: usize = 4096;

/// How overlayfs's marks of removed names are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PackWhiteouts {
    /// As what they are: character devices `0/0`, and (if asked for) attributes.
    #[default]
    AsIs,
    /// As an OCI layer has them: `.wh.NAME`, and `.wh..wh..opq` in opaque directories. A layer that overlayfs has
    /// written with redirects or metadata-only copies is [`ErrorKind::Unsupported`], as OCI cannot say those; and so
    /// is a name that begins with `.wh.`, as it would be taken for a whiteout.
    Oci,
}

/// How to pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// How removed names are written. Default: as they are.
    pub whiteouts: PackWhiteouts,
    /// Whether `trusted.overlay.*` and `user.overlay.*` attributes are written. Default: no.
    pub overlay_attributes: bool,
    /// Whether a directory gets an entry for itself (`./`), with its owner, mode and time. Default: yes.
    pub root_entry: bool,
    /// Whether everything is said to be root's, user and group 0. Default: whose it is.
    pub as_root: bool,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self { whiteouts: PackWhiteouts::AsIs, overlay_attributes: false, root_entry: true, as_root: false }
    }
}

/// What was packed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Entries written.
    pub entries: u64,
    /// Regular files among them.
    pub files: u64,
    /// Bytes in those files.
    pub bytes: u64,
    /// Sockets left out.
    pub sockets: u64,
    /// Extended attributes left out, because tar cannot hold their name (`=`).
    pub attributes_skipped: u64,
    /// Files and directories left out of a [`Shown`] directory, because not everybody may read them, or because they are pipes or devices.
    pub left_out: u64,
    /// How many files or directories vanished, shrank (padded with zeros) or grew (cut off) while they were packed.
    /// Not zero means: the archive is well formed, and no state that the tree ever had.
    pub changed: u64,
    /// The first of those.
    pub changed_paths: Vec<PathBuf>,
}

/// Packs what a path names: a directory with everything below it (names relative to it, in the order of their bytes,
/// so equal trees give equal archives), or a single file under its own name. A link at the end of the path is packed
/// itself; `link/.` is what it points to.
///
/// - Written: owner and group by number, mode, modification time to the nanosecond, symbolic and hard links, pipes,
///   devices, and of files and directories the attributes `user.*` and `security.capability`. Not: sockets, holes,
///   ACLs, access times, the contents of kernel file systems (procfs, sysfs …) mounted below.
/// - Streams: nothing of a file is held but one buffer. Files that change meanwhile are told in the result.
/// - Errors: what cannot be read, a path longer than 4096 bytes, and whatever the writer says. The archive is then
///   left without its end marker, so nobody takes it for whole.
pub fn pack(base: &Base, path: impl AsRef<Path>, writer: impl Write, options: &PackOptions) -> Result<Packed> {
    let path = path.as_ref();
    let tree = base.open_tree("pack", path)?;
    let mut packing = Packing::new(writer, options);
    match tree {
        Tree::Directory(directory) => packing.tree(directory)?,
        Tree::Named(parent, name) => {
            let metadata = Metadata::of_name(&parent, &name).at("pack", path)?;
            packing.leaf(parent.as_fd(), &name, Path::new(&name), &metadata).map_err(|error| error.at(path))?;
        }
    }
    packing.emitter.finish().map_err(stream)?;
    Ok(packing.packed)
}

struct Packing<'options, Output> {
    emitter: Emitter<Output>,
    options: &'options PackOptions,
    /// Files with several names, and the name under which they are in the archive.
    linked: HashMap<Identity, PathBuf>,
    /// Whether what is packed now belongs to somebody else, who only shows it.
    shown: bool,
    /// Whether several layers become one, in which what overlayfs says in attributes of one layer about others would be lost.
    is_merged: bool,
    packed: Packed,
}

impl<'options, Output: Write> Packing<'options, Output> {
    fn new(writer: Output, options: &'options PackOptions) -> Self {
        Self {
            emitter: Emitter::new(writer, options.as_root),
            options,
            linked: HashMap::new(),
            shown: false,
            is_merged: false,
            packed: Packed::default(),
        }
    }

    fn tree(&mut self, root: OwnedFd) -> Result<()> {
        let metadata = Metadata::of(&root).at("pack", ".")?;
        self.marked_directory(&root, Path::new(""), &metadata).map_err(|error| error.at(Path::new(".")))?;
        let names = nofollow::names_to_pop(&root).at("pack", ".")?;
        let mut ladder = Ladder::new(root, &metadata, names);
        loop {
            let Some(name) = ladder.state().pop() else {
                match ladder.ascend().map_err(|error| Error::io("pack", ladder.path(), error))? {
                    Some(_) => continue,
                    None => return Ok(()),
                }
            };
            let path = ladder.path().join(&name);
            match self.entry(&mut ladder, &name, &path) {
                Ok(()) => {}
                Err(Failure::Kernel(Errno::NOENT)) => self.changed(&path),
                Err(failure) => return Err(failure.at(&path)),
            }
        }
    }

    fn entry(&mut self, ladder: &mut Ladder<Vec<OsString>>, name: &OsStr, path: &Path) -> Attempt<()> {
        if path.as_os_str().len() > PATH_BYTES {
            let reason = format!("path is longer than {PATH_BYTES} bytes");
            return Err(Error::new(ErrorKind::LimitExceeded, "pack", path, reason).into());
        }
        let metadata = Metadata::of_name(ladder.here(), name)?;
        if metadata.kind != Kind::Directory {
            return self.leaf(ladder.here(), name, path, &metadata);
        }
        self.refuse_marked(name, path)?;
        let directory = match nofollow::open_directory(ladder.here(), name) {
            // Replaced since it was described.
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Errno::NOENT.into()),
            opened => opened?,
        };
        let metadata = Metadata::of(&directory)?;
        self.marked_directory(&directory, path, &metadata)?;
        let foreign = metadata.is_mount_point(ladder.identity()) && system::is_kernel_interface(&directory)?;
        let names = if foreign { Vec::new() } else { nofollow::names_to_pop(&directory)? };
        ladder.descend(name.to_owned(), directory, &metadata, names);
        Ok(())
    }

    /// The entry of a directory, and its opaque marker.
    fn marked_directory(&mut self, directory: &OwnedFd, path: &Path, metadata: &Metadata) -> Attempt<()> {
        self.directory(directory, path, metadata)?;
        if self.options.whiteouts == PackWhiteouts::Oci && is_opaque(directory)? {
            self.opaque_marker(path, metadata)?;
        }
        Ok(())
    }

    /// OCI's mark that a directory hides what lies below.
    fn opaque_marker(&mut self, path: &Path, metadata: &Metadata) -> Attempt<()> {
        self.marker(&path.join(OsStr::from_bytes(crate::entry_path::OPAQUE)), metadata)
    }

    /// The entry of a directory.
    fn directory(&mut self, directory: &OwnedFd, path: &Path, metadata: &Metadata) -> Attempt<()> {
        self.directory_with(directory, path, metadata, None)
    }

    /// The same with one more attribute.
    fn directory_with(&mut self, directory: &OwnedFd, path: &Path, metadata: &Metadata, more: Option<(Vec<u8>, Vec<u8>)>) -> Attempt<()> {
        let is_root = path.as_os_str().is_empty();
        if !is_root || self.options.root_entry {
            let mut attributes = self.attributes(directory)?;
            attributes.extend(more);
            let mut name = if is_root { b".".to_vec() } else { path.as_os_str().as_bytes().to_vec() };
            name.push(b'/');
            self.write(&Entry { attributes: &attributes, ..Entry::new(&name, metadata) })?;
        }
        Ok(())
    }

    /// The entry of anything but a directory.
    fn leaf(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path, metadata: &Metadata) -> Attempt<()> {
        if metadata.kind == Kind::Socket {
            self.packed.sockets += 1;
            return Ok(());
        }
        self.refuse_marked(name, path)?;
        if metadata.kind.is_whiteout() && self.options.whiteouts == PackWhiteouts::Oci {
            let name = [WHITEOUT, name.as_bytes()].concat();
            return self.marker(&path.with_file_name(OsStr::from_bytes(&name)), metadata);
        }
        let path_bytes = path.as_os_str().as_bytes();
        if metadata.links > 1
            && let Some(first) = self.linked.get(&metadata.identity()).cloned()
        {
            let link = first.as_os_str().as_bytes();
            return self.write(&Entry { link, hard_link: true, size: 0, ..Entry::new(path_bytes, metadata) });
        }
        match metadata.kind {
            Kind::File => self.file(parent, name, path)?,
            Kind::Symlink => {
                let target = match rustix::fs::readlinkat(parent, name, Vec::new()) {
                    Err(Errno::INVAL) => return Err(Errno::NOENT.into()),
                    target => target?,
                };
                self.write(&Entry { link: target.as_bytes(), ..Entry::new(path_bytes, metadata) })?;
            }
            _ => self.write(&Entry::new(path_bytes, metadata))?,
        }
        if metadata.links > 1 {
            self.linked.insert(metadata.identity(), path.to_owned());
        }
        Ok(())
    }

    fn file(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Attempt<()> {
        let file = match nofollow::open_for_reading(parent, name) {
            Err(Errno::LOOP | Errno::NXIO) => return Err(Errno::NOENT.into()),
            opened => opened?,
        };
        // Of what is open, not of what was there a moment ago.
        let metadata = Metadata::of(&file)?;
        if metadata.kind != Kind::File {
            return Err(Errno::NOENT.into());
        }
        if self.shown && !merge::is_for_everybody(&metadata) {
            self.packed.left_out += 1;
            return Ok(());
        }
        let attributes = self.attributes(&file)?;
        let size = metadata.size;
        self.write(&Entry { attributes: &attributes, size, ..Entry::new(path.as_os_str().as_bytes(), &metadata) })?;
        let whole = self.emitter.content(&file, size)?;
        if !whole {
            self.changed(path);
        }
        self.packed.files += 1;
        self.packed.bytes = self.packed.bytes.saturating_add(size);
        Ok(())
    }

    /// An empty file that marks something.
    fn marker(&mut self, path: &Path, metadata: &Metadata) -> Attempt<()> {
        let mut metadata = *metadata;
        (metadata.kind, metadata.mode) = (Kind::File, 0o600);
        self.write(&Entry::new(path.as_os_str().as_bytes(), &metadata))
    }

    fn write(&mut self, entry: &Entry<'_>) -> Attempt<()> {
        self.packed.entries += 1;
        let metadata = if self.shown { merge::as_shown(entry.metadata) } else { *entry.metadata };
        self.emitter.entry(&Entry { metadata: &metadata, ..*entry }).map_err(|error| Failure::Told(stream(error)))
    }

    /// What is written of a file's attributes.
    fn attributes(&mut self, file: &OwnedFd) -> Attempt<Vec<(Vec<u8>, Vec<u8>)>> {
        let from = Attributes::of(file);
        let mut taken = Vec::new();
        if self.shown {
            return Ok(taken);
        }
        for name in from.names()? {
            let wanted = if is_overlay(&name) {
                if (self.is_merged || self.options.whiteouts == PackWhiteouts::Oci)
                    && [&b".redirect"[..], b".metacopy", b".whiteout"].iter().any(|mark| name.ends_with(mark))
                {
                    let reason = "an OCI layer or a merged one cannot hold overlayfs's redirects, metadata-only copies and marks of removal in attributes";
                    return Err(Failure::Unsupported(reason));
                }
                self.options.overlay_attributes
            } else {
                name.starts_with(b"user.") || name == CAPABILITY
            };
            if !wanted {
                continue;
            }
            if name.contains(&b'=') {
                self.packed.attributes_skipped += 1;
                continue;
            }
            if let Some(value) = from.value(&name)? {
                taken.push((name, value));
            }
        }
        Ok(taken)
    }

    fn refuse_marked(&self, name: &OsStr, path: &Path) -> Attempt<()> {
        if self.options.whiteouts == PackWhiteouts::Oci && name.as_bytes().starts_with(WHITEOUT) {
            let reason = "an OCI layer cannot hold a name that begins with `.wh.`";
            return Err(Error::new(ErrorKind::Unsupported, "pack", path, reason).into());
        }
        Ok(())
    }

    fn changed(&mut self, path: &Path) {
        self.packed.changed += 1;
        if self.packed.changed_paths.len() < CHANGED_TOLD {
            self.packed.changed_paths.push(path.to_owned());
        }
    }
}

fn is_opaque(directory: &OwnedFd) -> std::result::Result<bool, Errno> {
    for namespace in [OverlayNamespace::Trusted, OverlayNamespace::User] {
        if Attributes::of(directory).value(namespace.opaque())?.as_deref() == Some(b"y") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn stream(error: std::io::Error) -> Error {
    Error::io("write the archive", "", error)
}

type Attempt<T> = std::result::Result<T, Failure>;

/// Why an entry could not be packed.
pub(crate) enum Failure {
    /// The kernel, about the file at hand; `ENOENT` means that it vanished.
    Kernel(Errno),
    /// Something about the file at hand that an archive cannot say.
    Unsupported(&'static str),
    /// Already an error with a path.
    Told(Error),
}

impl Failure {
    fn at(self, path: &Path) -> Error {
        match self {
            Self::Kernel(error) => Error::io("pack", path, error),
            Self::Unsupported(reason) => Error::new(ErrorKind::Unsupported, "pack", path, reason),
            Self::Told(error) => error,
        }
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::Kernel(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Told(error)
    }
}

/// Of the stream that is written to.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Told(stream(error))
    }
}
