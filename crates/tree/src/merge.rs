//! Several overlay layers, written as one tar stream.

use crate::emit::Emitter;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::metadata::{Kind, Metadata};
use crate::nofollow;
use crate::pack::{Failure, PATH_BYTES, PackOptions, PackWhiteouts, Packed, Packing, is_opaque};
use crate::xattr::OverlayNamespace;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What becomes of what the layers remove from layers below the lowest of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Below {
    /// There is nothing below: marks of removed names are left out, and the result is a whole tree.
    Nothing,
    /// There are other layers: the result is one layer for overlayfs, with whiteouts as devices `0/0` and opaque directories marked in
    /// the namespace `trusted`.
    Layers,
}

/// Packs what overlayfs would show of several layers, the lowest first, in one pass and without mounting anything, but for an entry of the
/// root itself; owners, devices, links
/// and attributes as [`pack`](crate::pack()) has them. Layers are in overlayfs's own form, in either namespace, and nobody changes them.
///
/// # Errors
/// As [`pack`](crate::pack()). `Unsupported` for layers with redirects or metadata-only copies.
pub fn pack_layers(layers: &[impl AsFd], below: Below, writer: impl Write) -> Result<Packed> {
    // Redirects and copies of metadata only are refused, as everything of overlayfs is that is not said in other words here.
    let options = PackOptions { whiteouts: PackWhiteouts::AsIs, overlay_attributes: false, root_entry: false };
    let packing = Packing { emitter: Emitter::new(writer), options: &options, linked: HashMap::new(), packed: Packed::default() };
    let mut merging = Merging {
        layers,
        below,
        packing,
        folders: vec![Folder { path: PathBuf::new(), sources: (0..layers.len()).rev().collect(), covers: false }],
    };
    while let Some(folder) = merging.folders.pop() {
        let path = folder.path.clone();
        merging.folder(folder).map_err(|failure| failure.at(&path))?;
    }
    merging.packing.emitter.finish().at("pack", ".")?;
    Ok(merging.packing.packed)
}

struct Merging<'layers, Layer, Output> {
    layers: &'layers [Layer],
    below: Below,
    packing: Packing<'layers, Output>,
    /// Those that are still to be packed; their parents are.
    folders: Vec<Folder>,
}

struct Folder {
    path: PathBuf,
    /// The layers that have it, the topmost first.
    sources: Vec<usize>,
    /// Whether it hides something of another kind, or removed, below the last of them.
    covers: bool,
}

impl<Layer: AsFd, Output: Write> Merging<'_, Layer, Output> {
    fn folder(&mut self, folder: Folder) -> std::result::Result<(), Failure> {
        let Folder { path, sources, mut covers } = folder;
        let mut open: Vec<(usize, OwnedFd)> = Vec::new();
        for source in sources {
            let directory = self.open(source, &path)?;
            let opaque = is_opaque(&directory)?;
            open.push((source, directory));
            if opaque {
                covers = true;
                break;
            }
        }
        let Some((_, top)) = open.first() else { return Ok(()) };
        let metadata = Metadata::of(top)?;
        let mark = (covers && self.below == Below::Layers).then(|| (OverlayNamespace::Trusted.opaque().to_vec(), b"y".to_vec()));
        self.packing.directory_with(top, &path, &metadata, mark)?;
        let mut names = BTreeSet::new();
        for (_, directory) in &open {
            names.extend(nofollow::names(directory, usize::MAX, |_| false)?);
        }
        // Depth first, in ascending order: pushed in the opposite one.
        let mut below = Vec::new();
        for name in names {
            below.extend(self.name(&path, &open, name)?);
        }
        self.folders.extend(below.into_iter().rev());
        Ok(())
    }

    /// Packs what a name is, unless it is a directory.
    fn name(&mut self, path: &Path, open: &[(usize, OwnedFd)], name: OsString) -> std::result::Result<Option<Folder>, Failure> {
        let path = path.join(&name);
        if path.as_os_str().len() > PATH_BYTES {
            let reason = format!("path is longer than {PATH_BYTES} bytes");
            return Err(Error::new(ErrorKind::LimitExceeded, "pack", path, reason).into());
        }
        let mut sources = Vec::new();
        let mut covers = false;
        for (source, directory) in open {
            let metadata = match Metadata::of_name(directory, &name) {
                Err(Errno::NOENT) => continue,
                found => found?,
            };
            if metadata.kind == Kind::Directory {
                sources.push(*source);
                continue;
            }
            if !sources.is_empty() {
                covers = true;
            } else if !metadata.kind.is_whiteout() || self.below == Below::Layers {
                self.packing.leaf(directory.as_fd(), &name, &path, &metadata)?;
            }
            break;
        }
        Ok((!sources.is_empty()).then_some(Folder { path, sources, covers }))
    }

    fn open(&self, source: usize, path: &Path) -> std::result::Result<OwnedFd, Errno> {
        let held = nofollow::enter(&self.layers[source], path.iter())?;
        nofollow::open_directory(held, ".".as_ref())
    }
}
