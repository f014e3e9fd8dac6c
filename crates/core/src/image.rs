use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::User;

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// A read-only view of the host's programs. Bound to this host by a fingerprint.
    Host {
        /// Of the host's release and of the list of folders.
        fingerprint: String,
    },
    /// Layers with a digest; portable.
    Layers {
        /// `sha256:…` of the image's configuration: its id.
        digest: String,
    },
    /// No image: `dangerous-host` begins with an empty workspace.
    Empty,
    /// An image of another host, which alone has it.
    Elsewhere {
        /// Its name there; that host's default when `None`.
        image: Option<String>,
    },
}

/// The parts of the host that the image `host` shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostImage {
    /// Absolute paths of host folders, each shown read-only at the same path (`/usr`, and `/bin`, `/lib` … where they are not
    /// symbolic links into it).
    pub folders: Vec<PathBuf>,
}

/// A root file system as the runtime has prepared it: what a provider mounts, and the image's defaults.
///
/// All folders are overlay layers in the host's own form (whiteouts as 0/0 devices, opaque marks as xattrs), read-only, shared
/// by all sandboxes, lowest first. As root their owners are the sandbox's ids as they are (0 is the sandbox's root).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootSource {
    /// What it is made of.
    pub kind: ImageKind,
    /// Image layers, lowest first. For the image `host`: one folder, the skeleton with `/etc` and the empty writable folders.
    pub layers: Vec<PathBuf>,
    /// Layers of the checkpoint that the sandbox begins from, lowest first; they lie above `layers`.
    pub saved_layers: Vec<PathBuf>,
    /// Only for the image `host`.
    pub host: Option<HostImage>,
    /// The image's environment.
    pub env: BTreeMap<String, String>,
    /// The image's working directory.
    pub workdir: Option<String>,
    /// The image's user.
    pub user: Option<User>,
}

impl RootSource {
    /// No image at all.
    pub fn empty() -> Self {
        Self::bare(ImageKind::Empty)
    }

    /// An image of the host that a provider reaches.
    pub fn elsewhere(image: Option<String>) -> Self {
        Self::bare(ImageKind::Elsewhere { image })
    }

    fn bare(kind: ImageKind) -> Self {
        Self { kind, layers: Vec::new(), saved_layers: Vec::new(), host: None, env: BTreeMap::new(), workdir: None, user: None }
    }
}
