//! What an overlay of layers shows, written as one tar stream without mounting anything.

use super::{Attempt, Failure, PATH_BYTES, PackOptions, PackWhiteouts, Packed, Packing, is_opaque, stream};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::metadata::{Kind, Metadata};
use crate::nofollow;
use crate::xattr::OverlayNamespace;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::{Path, PathBuf};

/// A directory of somebody else's that is shown at the top of a merged tree, in the place of whatever the layers have there.
///
/// Only what everybody may read is taken: files with `o+r`, directories with `o+rx`. It is taken as root's, without setuid, setgid,
/// attributes, pipes and devices, and what is mounted below is not entered.
#[derive(Debug)]
pub struct Shown {
    /// Its name in the root.
    pub name: OsString,
    /// The directory.
    pub directory: OwnedFd,
}

/// What becomes of the marks of what layers remove from below the lowest of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Below {
    /// There is nothing below: they are left out, and the result is a whole tree.
    #[default]
    Nothing,
    /// There are further layers: the result is one layer to lie above those.
    Layers,
}

/// How to merge.
#[derive(Clone, Copy, Debug, Default)]
pub struct MergeOptions<'a> {
    /// Directories of others. Default: none.
    pub shown: &'a [Shown],
    /// What lies below. Default: nothing.
    pub below: Below,
    /// How it is written. Marks are devices `0/0` and attributes of the namespace `trusted`, or OCI's names; overlayfs's own attributes are never
    /// written otherwise.
    pub pack: PackOptions,
}

/// Packs what an overlay of these layers (lowest first, in overlayfs's own form) shows, with directories of others in it, as one layer. Names
/// come in the order of their bytes.
///
/// - Written, streamed and told as by [`pack`](super::pack()).
/// - Redirects and metadata-only copies are [`ErrorKind::Unsupported`], and in OCI's form names that begin with `.wh.`.
/// - Of what has names in several layers, a hard link holds only within one.
pub fn pack_merged(layers: &[OwnedFd], options: &MergeOptions<'_>, writer: impl Write) -> Result<Packed> {
    let pack = PackOptions { overlay_attributes: false, ..options.pack };
    let mut packing = Packing::new(writer, &pack);
    packing.is_merged = true;
    let merging = Merging { layers, shown: options.shown, below: options.below };
    merging.run(&mut packing)?;
    packing.emitter.finish().map_err(stream)?;
    Ok(packing.packed)
}

/// The metadata of a shown thing as they are written.
pub(super) fn as_shown(metadata: &Metadata) -> Metadata {
    let mut metadata = *metadata;
    (metadata.uid, metadata.gid, metadata.mode) = (0, 0, metadata.mode & 0o1777);
    metadata
}

/// Whether everybody may read it.
pub(super) fn is_for_everybody(metadata: &Metadata) -> bool {
    let needed = if metadata.kind == Kind::Directory { 0o005 } else { 0o004 };
    metadata.kind == Kind::Symlink || metadata.mode & needed == needed
}

struct Merging<'a> {
    layers: &'a [OwnedFd],
    shown: &'a [Shown],
    below: Below,
}

/// A directory of the merged tree.
struct Level {
    path: PathBuf,
    source: Source,
    /// Of the directories that make it up, the highest first. Let go while the walk is further down, since a hostile tree could be as deep
    /// as there are layers many.
    open: Vec<OwnedFd>,
    /// Still to come, the last one first.
    names: Vec<OsString>,
}

/// Where a directory comes from.
enum Source {
    /// Layers by number, the highest first.
    Layers(Vec<usize>),
    /// A shown one.
    Shown(usize),
}

impl Merging<'_> {
    fn run<Output: Write>(&self, packing: &mut Packing<'_, Output>) -> Result<()> {
        let mut sources: Vec<usize> = Vec::new();
        let mut covers = false;
        for (number, layer) in self.layers.iter().enumerate().rev() {
            sources.push(number);
            covers = is_opaque(&open_here(layer).at("pack", ".")?).at("pack", ".")?;
            if covers {
                break;
            }
        }
        let mut level = self.level(PathBuf::new(), Source::Layers(sources)).at("pack", ".")?;
        if let Some(top) = level.open.first() {
            let metadata = Metadata::of(top).at("pack", ".")?;
            self.directory(packing, top, Path::new(""), &metadata, covers).map_err(|error| error.at(Path::new(".")))?;
        }
        let mut above: Vec<Level> = Vec::new();
        loop {
            let Some(name) = level.names.pop() else {
                match above.pop() {
                    Some(next) => level = next,
                    None => return Ok(()),
                }
                continue;
            };
            let path = level.path.join(&name);
            packing.shown = matches!(level.source, Source::Shown(_));
            let entered = self.entry(packing, &mut level, &name, &path);
            match entered {
                Ok(Some(below)) => {
                    level.open.clear();
                    above.push(std::mem::replace(&mut level, below));
                }
                Ok(None) => {}
                Err(Failure::Kernel(Errno::NOENT)) => packing.changed(&path),
                Err(failure) => return Err(failure.at(&path)),
            }
        }
    }

    /// Writes one entry; a directory is given to be gone through.
    fn entry<Output: Write>(
        &self,
        packing: &mut Packing<'_, Output>,
        level: &mut Level,
        name: &OsStr,
        path: &Path,
    ) -> Attempt<Option<Level>> {
        if path.as_os_str().len() > PATH_BYTES {
            let reason = format!("path is longer than {PATH_BYTES} bytes");
            return Err(Error::new(ErrorKind::LimitExceeded, "pack", path, reason).into());
        }
        if level.path.as_os_str().is_empty()
            && let Some(number) = self.shown.iter().position(|shown| shown.name == name)
        {
            packing.shown = true;
            let directory = open_here(&self.shown[number].directory)?;
            let metadata = Metadata::of(&directory)?;
            packing.directory(&directory, path, &metadata)?;
            return Ok(Some(self.level(path.to_owned(), Source::Shown(number))?));
        }
        if level.open.is_empty() {
            level.open = self.open(&level.path, &level.source)?;
        }
        match &level.source {
            Source::Shown(number) => self.shown_entry(packing, *number, &level.open, name, path),
            Source::Layers(numbers) => self.layered_entry(packing, numbers, &level.open, name, path),
        }
    }

    fn shown_entry<Output: Write>(
        &self,
        packing: &mut Packing<'_, Output>,
        number: usize,
        open: &[OwnedFd],
        name: &OsStr,
        path: &Path,
    ) -> Attempt<Option<Level>> {
        let Some(parent) = open.first() else { return Ok(None) };
        let metadata = Metadata::of_name(parent, name)?;
        if !is_for_everybody(&metadata) || !matches!(metadata.kind, Kind::File | Kind::Symlink | Kind::Directory) {
            packing.packed.left_out += 1;
            return Ok(None);
        }
        if metadata.kind != Kind::Directory {
            packing.leaf(parent.as_fd(), name, path, &metadata)?;
            return Ok(None);
        }
        let directory = open_below(parent, name)?;
        let metadata = Metadata::of(&directory)?;
        packing.refuse_marked(name, path)?;
        packing.directory(&directory, path, &metadata)?;
        if metadata.is_mount_point(Metadata::of(parent)?.identity()) {
            return Ok(None);
        }
        Ok(Some(self.level(path.to_owned(), Source::Shown(number))?))
    }

    fn layered_entry<Output: Write>(
        &self,
        packing: &mut Packing<'_, Output>,
        numbers: &[usize],
        open: &[OwnedFd],
        name: &OsStr,
        path: &Path,
    ) -> Attempt<Option<Level>> {
        let mut found: Vec<(usize, OwnedFd)> = Vec::new();
        // Whether the topmost directory hides something that is no part of it.
        let mut covers = false;
        for (number, parent) in numbers.iter().zip(open) {
            let metadata = match Metadata::of_name(parent, name) {
                Err(Errno::NOENT) => continue,
                metadata => metadata?,
            };
            if metadata.kind != Kind::Directory {
                // Below a directory, a file is hidden as a whole; and a whiteout hides what is below it.
                if !found.is_empty() {
                    covers = true;
                } else if !metadata.kind.is_whiteout() || self.below == Below::Layers {
                    packing.leaf(parent.as_fd(), name, path, &metadata)?;
                }
                break;
            }
            let directory = open_below(parent, name)?;
            covers = is_opaque(&directory)?;
            found.push((*number, directory));
            if covers {
                break;
            }
        }
        let Some((_, top)) = found.first() else { return Ok(None) };
        let metadata = Metadata::of(top)?;
        packing.refuse_marked(name, path)?;
        self.directory(packing, top, path, &metadata, covers)?;
        let numbers = found.into_iter().map(|(number, _)| number).collect();
        Ok(Some(self.level(path.to_owned(), Source::Layers(numbers))?))
    }

    /// The entry of a directory of layers, and the mark that it hides what lies below all of them.
    fn directory<Output: Write>(
        &self,
        packing: &mut Packing<'_, Output>,
        directory: &OwnedFd,
        path: &Path,
        metadata: &Metadata,
        covers: bool,
    ) -> Attempt<()> {
        let marked = covers && self.below == Below::Layers;
        let mark = match packing.options.whiteouts {
            PackWhiteouts::AsIs if marked => {
                if path.as_os_str().is_empty() && !packing.options.root_entry {
                    return Err(Failure::Unsupported("the root hides everything below it, and is not to be written"));
                }
                Some((OverlayNamespace::Trusted.opaque().to_vec(), b"y".to_vec()))
            }
            PackWhiteouts::AsIs | PackWhiteouts::Oci => None,
        };
        packing.directory_with(directory, path, metadata, mark)?;
        if marked && packing.options.whiteouts == PackWhiteouts::Oci {
            packing.opaque_marker(path, metadata)?;
        }
        Ok(())
    }

    fn level(&self, path: PathBuf, source: Source) -> std::result::Result<Level, Errno> {
        let open = self.open(&path, &source)?;
        let mut names = BTreeSet::new();
        for directory in &open {
            names.extend(nofollow::names(directory, usize::MAX, |_| false)?);
        }
        if path.as_os_str().is_empty() {
            names.extend(self.shown.iter().map(|shown| shown.name.clone()));
        }
        Ok(Level { path, source, open, names: names.into_iter().rev().collect() })
    }

    fn open(&self, path: &Path, source: &Source) -> std::result::Result<Vec<OwnedFd>, Errno> {
        let open = |root: &OwnedFd, below: &Path| {
            let held = nofollow::enter(root, below.iter())?;
            open_here(&held)
        };
        match source {
            Source::Layers(numbers) => numbers.iter().map(|number| open(&self.layers[*number], path)).collect(),
            Source::Shown(number) => {
                let shown = &self.shown[*number];
                let below: PathBuf = path.iter().skip(1).collect();
                Ok(vec![open(&shown.directory, &below)?])
            }
        }
    }
}

fn open_here(directory: &OwnedFd) -> std::result::Result<OwnedFd, Errno> {
    nofollow::open_directory(directory, OsStr::new("."))
}

/// A directory that was one a moment ago.
fn open_below(parent: &OwnedFd, name: &OsStr) -> std::result::Result<OwnedFd, Errno> {
    match nofollow::open_directory(parent, name) {
        Err(Errno::NOTDIR | Errno::LOOP) => Err(Errno::NOENT),
        opened => opened,
    }
}
