//! Whether the last skeleton still stands: a look at a few dozen files instead of reading them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use sandbar_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::{
    OPERATION,
    gather::{self, Folders, Host, Watched},
    skeleton::FORMAT,
};
use crate::{
    image::{index, paths::Paths},
    system,
};

/// What the present skeleton was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    format: u32,
    boot: String,
    pub(super) fingerprint: String,
    pub(super) folders: Vec<PathBuf>,
    links: Vec<(String, PathBuf)>,
    watched: Vec<Watched>,
}

impl Stamp {
    pub(super) fn new(fingerprint: String, host: &Host) -> Result<Self> {
        let Folders { folders, links } = host.folders.clone();
        Ok(Self { format: FORMAT, boot: system::boot_id()?, fingerprint, folders, links, watched: host.watched.clone() })
    }

    /// The stamp of the present skeleton, if there is one, whether or not it stands. One that cannot be read is none.
    pub(super) fn read(paths: &Paths) -> Option<Self> {
        serde_json::from_slice(&fs::read(paths.host_stamp()).ok()?).ok()
    }

    /// The stamp, if the skeleton is there, was made in this boot, and nothing that it was made from has changed.
    pub(super) fn standing(paths: &Paths, host: &Path) -> Option<Self> {
        let stamp = Self::read(paths)?;
        let stands = stamp.format == FORMAT
            && stamp.boot == system::boot_id().ok()?
            && paths.host_tree(&stamp.fingerprint).is_dir()
            && stamp.watched.iter().all(Watched::stands)
            && gather::folders(host).ok()? == Folders { folders: stamp.folders.clone(), links: stamp.links.clone() };
        stands.then_some(stamp)
    }

    /// Replaces the stamp; under the lock of the host image.
    pub(super) fn write(&self, paths: &Paths) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|source| Error::new(ErrorKind::Internal, OPERATION, "the stamp cannot be written as JSON").with_source(source))?;
        index::replace_unsynced(&paths.host_stamp(), &text)
    }
}
