//! One layer: an archive made into an overlay layer, once, whoever wants it.

use std::{
    fs::{self, DirBuilder, File},
    io::Read,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::io::Errno;
use sandbar_core::{Context as _, Error, ErrorKind, Result};
use sandbar_tree::{Limits, UnpackOptions, Whiteouts};
use serde::{Deserialize, Serialize};

use super::{
    Digest, ImageLimits,
    compression::{decompress, explain},
    digest::Hashing,
    error::tree,
    paths::Paths,
    privilege::Privilege,
    temporary::{self, TemporaryFolder},
};

const OPERATION: &str = "image layer";

/// How much a layer holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Weight {
    /// Bytes in its files.
    pub(super) bytes: u64,
    /// Its entries.
    pub(super) entries: u64,
}

/// What a layer is said to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// The digest of the archive.
    pub(super) diff_id: Digest,
    /// The digest of the blob, where nobody has compared it yet.
    pub(super) blob: Option<Digest>,
}

/// Unpacks layers into one store.
#[derive(Debug, Clone)]
pub(super) struct Layers {
    pub(super) paths: Paths,
    pub(super) limits: ImageLimits,
}

impl Layers {
    /// Whether the store has the layer.
    pub(super) fn has(&self, diff_id: &Digest) -> bool {
        self.paths.layer_tree(diff_id).is_dir()
    }

    /// The weight of a layer that the store has.
    pub(super) fn weight(&self, diff_id: &Digest) -> Weight {
        let text = fs::read(self.paths.layer(diff_id).join("size")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Unpacks an archive (plain or compressed) of `size` bytes and keeps it under its digest.
    ///
    /// The layer is verified before it has a name, and has its name in one step, so nobody ever sees half of it; two
    /// who make the same layer at once both succeed. After an error nothing is left.
    pub(super) fn add(&self, archive: impl Read, size: u64, expected: Option<Expected>) -> Result<Digest> {
        let folder = TemporaryFolder::new(&self.paths)?;
        let layer = folder.path().join("layer");
        let (diff_id, weight) = self.unpack(archive, size, expected, &layer)?;
        let text = serde_json::to_vec(&weight).map_err(|source| {
            Error::new(ErrorKind::Internal, OPERATION, "the layer's weight cannot be written as JSON").with_source(source)
        })?;
        fs::write(layer.join("size"), text).context(OPERATION, || format!("cannot write {}", layer.display()))?;
        self.publish(&layer, &diff_id)?;
        Ok(diff_id)
    }

    fn unpack(&self, archive: impl Read, size: u64, expected: Option<Expected>, layer: &Path) -> Result<(Digest, Weight)> {
        let site = tree_folder(layer)?;
        let limit = self.limits.unpacked(size);
        Self::unpack_as(archive, limit, expected, &self.options(limit), &site)
    }

    /// Unpacks an archive into a folder, and compares its digests.
    pub(super) fn unpack_as(
        archive: impl Read,
        limit: u64,
        expected: Option<Expected>,
        options: &UnpackOptions,
        into: &File,
    ) -> Result<(Digest, Weight)> {
        let mut archive = Hashing::new(archive);
        let done = unpack(&mut archive, limit, options, into);
        let blob = expected.and_then(|expected| expected.blob);
        if let Some(blob) = blob {
            // Also, and first of all, when unpacking failed: damage in transit is the cause then, not the archive.
            let actual = archive.finish().context(OPERATION, || "cannot read the layer".to_owned())?;
            blob.expect(OPERATION, "layer", actual)?;
        }
        let (diff_id, weight) = done?;
        if let Some(expected) = expected {
            expected.diff_id.expect(OPERATION, "unpacked layer", diff_id)?;
        }
        Ok((diff_id, weight))
    }

    /// One way for all, as a layer is known by its archive's digest alone: the same archive must give the same tree
    /// wherever it came from.
    pub(super) fn options(&self, limit: u64) -> UnpackOptions {
        let privilege = Privilege::here();
        UnpackOptions {
            owner: privilege.owner(),
            // The store is closed to other users, and a sandbox has no_new_privs or a kernel of its own.
            set_id: true,
            capabilities: privilege == Privilege::Root,
            whiteouts: Whiteouts::Oci(privilege.overlay()),
            limits: Limits { bytes: limit, entries: self.limits.layer_entries, ..Limits::default() },
            // Root file systems that were made as root (debootstrap, mmdebstrap) have some there, where a sandbox mounts
            // its own anyway; anywhere else a device is an attack.
            devices_left_out_of: Some("dev"),
            // No devices, no marks of overlayfs that the archive brings along.
            ..UnpackOptions::default()
        }
    }

    fn publish(&self, layer: &Path, diff_id: &Digest) -> Result<()> {
        // A name that survives a crash must not outlive the content: nobody verifies a layer again.
        let folder = File::open(layer).context(OPERATION, || format!("cannot open {}", layer.display()))?;
        crate::system::flush(&folder).context(OPERATION, || "cannot write the layer to disk".to_owned())?;
        let target = self.paths.layer(diff_id);
        match fs::rename(layer, &target) {
            Ok(()) => Ok(()),
            Err(_) if self.has(diff_id) => Ok(()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTEMPTY) => {
                // A layer whose tree somebody removed by hand.
                temporary::remove(&target)?;
                fs::rename(layer, &target).context(OPERATION, || format!("cannot rename to {}", target.display()))
            }
            Err(error) => Err(error).context(OPERATION, || format!("cannot rename to {}", target.display())),
        }
    }
}

/// Makes the folder that a layer's tree goes into.
fn tree_folder(layer: &Path) -> Result<File> {
    let tree = layer.join("fs");
    let make = || {
        DirBuilder::new().mode(0o700).create(layer)?;
        fs::create_dir(&tree)?;
        // What a root directory has, unless the archive says otherwise; not what the umask leaves.
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o755))?;
        File::open(&tree)
    };
    make().context(OPERATION, || format!("cannot make {}", tree.display()))
}

fn unpack(archive: &mut impl Read, limit: u64, options: &UnpackOptions, into: &File) -> Result<(Digest, Weight)> {
    let unreadable = |error| explain(OPERATION, "cannot read the layer", error);
    let mut plain = Hashing::new(decompress(archive, limit).map_err(unreadable)?);
    let unpacked =
        sandbar_tree::unpack(&mut plain, into, options).map_err(|error| tree(OPERATION, "the layer cannot be unpacked", error))?;
    let diff_id = plain.finish().map_err(unreadable)?;
    Ok((diff_id, Weight { bytes: unpacked.bytes, entries: unpacked.entries }))
}
