//! Images that nobody named: they came with a checkpoint, are not listed, and go when no checkpoint and no sandbox needs them any more.

use std::fs;

use sandbar_core::{Context as _, Result};

use super::{
    Digest, ImageStore, collect,
    index::{Entry, Index},
    store::{put_blob, read_config},
};
use crate::clock;

impl ImageStore {
    /// An image's configuration, as it was written.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged.
    pub(crate) fn configuration(&self, id: &Digest) -> Result<Vec<u8>> {
        read_config(&self.layers.paths, id)?;
        let path = self.layers.paths.blob(id);
        fs::read(&path).context("image store", || format!("cannot read {}", path.display()))
    }

    /// Whether an image is here with all its layers, listed or not.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub(crate) fn is_complete(&self, id: &Digest) -> Result<bool> {
        if !Index::read(&self.layers.paths)?.images.contains_key(id) {
            return Ok(false);
        }
        Ok(read_config(&self.layers.paths, id).is_ok_and(|config| config.stack().iter().all(|diff_id| self.layers.has(diff_id))))
    }

    /// Adds an image whose layers are here. Hold a [pin](Self::pin) until the ledger says who needs it.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub(crate) fn add_unnamed(&self, config: &[u8], origin: &str) -> Result<Digest> {
        let id = Digest::of(config);
        put_blob(&self.layers.paths, &id, config)?;
        Index::change(&self.layers.paths, |index| {
            let entry = Entry { manifest: None, list: None, origin: origin.to_owned(), added_ms: clock::now_ms(), removed: true };
            index.images.entry(id).or_insert(entry);
            Ok(())
        })?;
        Ok(id)
    }

    /// Removes layers that were added for nothing.
    pub(crate) fn forget(&self, added: &[Digest]) {
        collect::forget(&self.layers, added);
    }
}
