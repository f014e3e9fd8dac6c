use std::{fs, io::ErrorKind as Io, path::Path};

use sandbar_core::{CheckpointId, Context, Error, ErrorKind, Result, RootSource};
use serde::{Deserialize, Serialize};

use super::{address::Address, problem::OPERATION};

/// Beside the empty layer.
const FILE: &str = "elsewhere.json";
/// What every checkpoint has, and is empty here.
pub(super) const LAYER: &str = "layer";

/// A checkpoint that another host has: all that is here of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marker {
    server: String,
    pub(super) checkpoint: CheckpointId,
}

impl Marker {
    /// For a checkpoint that is about to be made there.
    pub(super) fn new(address: &Address) -> Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(std::io::Error::from).context(OPERATION, || "cannot get random bytes".to_owned())?;
        Ok(Self { server: address.origin().to_string(), checkpoint: CheckpointId::from_random(random) })
    }

    /// Writes it into a checkpoint's folder, before there is a checkpoint: so whoever finds the folder knows what to remove.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::other);
        let written = fs::create_dir(folder.join(LAYER)).and_then(|()| fs::write(folder.join(FILE), text?));
        written.context(OPERATION, || format!("cannot write into {}", folder.display()))
    }

    /// That of a checkpoint's folder, if there is one.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(FILE);
        match fs::read(&path) {
            Err(error) if matches!(error.kind(), Io::NotFound | Io::NotADirectory) => Ok(None),
            Err(error) => Err(Error::io(OPERATION, "a checkpoint cannot be read", error).with("path", path.display())),
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                let message = "what is kept of a checkpoint on another host cannot be understood";
                Error::new(ErrorKind::Corrupt, OPERATION, message).with("path", path.display()).with_source(error)
            }),
        }
    }

    /// The checkpoint at the top of a root, which must be of this host.
    pub(super) fn of_root(root: &RootSource, address: &Address) -> Result<Self> {
        let folder = root.saved_layers.last().and_then(|layer| layer.parent());
        let marker = folder.map(Self::read).transpose()?.flatten().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, OPERATION, "the checkpoint is not on the other host")
                .with_hint("sandbar checkpoint export and the server's /v1/checkpoints/import take it there")
        })?;
        if marker.server != address.origin().to_string() {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "the checkpoint is on yet another host")
                .with("its host", &marker.server)
                .with("host", address.origin()));
        }
        Ok(marker)
    }

    /// Whether it is of this host.
    pub(super) fn is_of(&self, address: &Address) -> bool {
        self.server == address.origin().to_string()
    }
}
