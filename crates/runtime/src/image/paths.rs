//! Where things are in the store.

use std::path::PathBuf;

use super::Digest;

/// The folders and files of one store.
///
/// ```text
/// images/
///   lock              shared by whoever needs layers to stay, exclusive for whoever collects
///   index.json        names and images; index.lock guards changes
///   blobs/sha256/H    manifests and configurations
///   layers/H/fs       one layer, unpacked as an overlay layer; H is the digest of the uncompressed archive
///   layers/H/size     its weight
///   downloads/H.partial  a compressed layer that is being fetched
///   locks/H           one layer or blob that is being made
///   temporary/…       what is being made; locked by its maker, removed by anybody when that lock is free
///   host/F/fs         the skeleton of the image `host`; host/stamp.json says what it was made from
/// ```
#[derive(Debug, Clone)]
pub(super) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(super) fn index_lock(&self) -> PathBuf {
        self.root.join("index.lock")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.layers().join(diff_id.hex())
    }

    pub(super) fn layer_tree(&self, diff_id: &Digest) -> PathBuf {
        self.layer(diff_id).join("fs")
    }

    pub(super) fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    pub(super) fn partial(&self, digest: &Digest) -> PathBuf {
        self.downloads().join(format!("{}.partial", digest.hex()))
    }

    pub(super) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// The lock of one layer.
    pub(super) fn layer_lock(&self, diff_id: &Digest) -> PathBuf {
        self.locks().join(format!("layer-{}", diff_id.hex()))
    }

    /// The lock of one download. Taken after the layer's, so that two of them never wait for each other.
    pub(super) fn download_lock(&self, digest: &Digest) -> PathBuf {
        self.locks().join(format!("download-{}", digest.hex()))
    }

    pub(super) fn temporary(&self) -> PathBuf {
        self.root.join("temporary")
    }

    pub(super) fn host(&self) -> PathBuf {
        self.root.join("host")
    }

    pub(super) fn host_lock(&self) -> PathBuf {
        self.host().join("lock")
    }

    pub(super) fn host_stamp(&self) -> PathBuf {
        self.host().join("stamp.json")
    }

    pub(super) fn host_skeleton(&self, fingerprint: &str) -> PathBuf {
        self.host().join(fingerprint)
    }

    pub(super) fn host_tree(&self, fingerprint: &str) -> PathBuf {
        self.host_skeleton(fingerprint).join("fs")
    }
}
