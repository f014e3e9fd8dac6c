//! A folder as an image: packed as a layer's archive on the way, so that it is one like any other.

use std::{io, path::Path, thread};

use sandbar_core::{Context as _, Error, ErrorKind, Result};
use sandbar_tree::{Base, PackOptions, PackWhiteouts};

use super::{Digest, config::Config, error::tree, layer::Layers, store::Finished};

const OPERATION: &str = "image import";

/// Makes an image of one layer of a folder.
///
/// The tree is packed and unpacked at the same time, through a pipe: nothing passes through a file, the layer gets the
/// treatment of every other (whiteouts, refused devices, ids), and its digest is that of the archive, which is the
/// same for equal trees.
pub(super) fn import(layers: &Layers, path: &Path, added: &mut Vec<Digest>) -> Result<Finished> {
    let folder = std::fs::File::open(path).context(OPERATION, || format!("cannot open {}", path.display()))?;
    let base = Base::jail(folder, None);
    let options = PackOptions { whiteouts: PackWhiteouts::Oci, ..PackOptions::default() };
    let (reader, writer) = io::pipe().context(OPERATION, || "cannot make a pipe".to_owned())?;
    let (packed, diff_id) = thread::scope(|scope| {
        let packing = scope.spawn(move || {
            let writer = io::BufWriter::with_capacity(128 * 1024, writer);
            sandbar_tree::pack(&base, ".", writer, &options)
        });
        // Unpacking owns the reading end, so packing ends as well when that fails. A folder is what it is on this
        // disk, so no transfer size bounds it.
        let diff_id = layers.add(reader, u64::MAX, None);
        (packing.join(), diff_id)
    });
    let packed = packed.map_err(|_| Error::new(ErrorKind::Internal, OPERATION, "packing the folder panicked"))?;
    let packed = match (packed, &diff_id) {
        (Ok(packed), _) => packed,
        // The pipe broke because unpacking failed: that is the cause.
        (Err(error), Err(_)) if error.raw_os_error() == Some(rustix::io::Errno::PIPE.raw_os_error()) => {
            return diff_id.and(Err(tree(OPERATION, "the folder cannot be packed", error)));
        }
        (Err(error), _) => return Err(tree(OPERATION, "the folder cannot be packed", error)),
    };
    let diff_id = diff_id?;
    added.push(diff_id);
    if packed.changed > 0 {
        let first = packed.changed_paths.first().map(|path| format!("{path:?}")).unwrap_or_default();
        return Err(Error::new(ErrorKind::Conflict, OPERATION, "the folder changed while it was read")
            .with("changed", packed.changed)
            .with("first", first));
    }
    Ok(Finished::nameless(Config::of_layers(&[diff_id])?))
}
