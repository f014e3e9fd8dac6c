use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Something that a provider may or may not be able to do.
        ///
        /// Exec with streams, cwd, environment, timeouts and re-attachment, files, and port dialling belong to every provider
        /// and are therefore not listed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Feature { $($(#[$doc])* #[serde(rename = $text)] $name,)* }

        impl Feature {
            /// Every feature.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word used in JSON and in messages.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

features! {
    /// A terminal for a process, with resize.
    Pty = "pty",
    /// Commands as another user than the default one.
    User = "user",
    /// File change notifications.
    Watch = "watch",
    /// A port of the sandbox on a listener of the host.
    ExposePort = "expose-port",
    /// Pause and resume.
    Pause = "pause",
    /// Stop and start, with the writable layer kept.
    StopStart = "stop-start",
    /// Checkpoints of the writable layer.
    DiskCheckpoint = "disk-checkpoint",
    /// Checkpoints with processes.
    MemoryCheckpoint = "memory-checkpoint",
    /// Restore in place to a checkpoint.
    Restore = "restore",
    /// New sandboxes from a checkpoint.
    Fork = "fork",
    /// Usage numbers.
    Stats = "stats",
    /// The image `host`.
    HostImage = "host-image",
    /// Images made of layers: folders, tars, OCI.
    LayeredImage = "layered-image",
    /// Host folders inside the sandbox, read-only.
    VolumeReadOnly = "volume-read-only",
    /// Host folders inside the sandbox, writable.
    VolumeReadWrite = "volume-read-write",
    /// A memory limit.
    LimitMemory = "limit-memory",
    /// A CPU limit.
    LimitCpu = "limit-cpu",
    /// A limit of processes.
    LimitPids = "limit-pids",
    /// A limit of the writable layer's size.
    LimitDisk = "limit-disk",
    /// A limit of open files per process.
    LimitOpenFiles = "limit-open-files",
    /// A limit of what is read and written a second on the writable layer's disk.
    LimitDiskRate = "limit-disk-rate",
    /// No network but loopback.
    NetworkNone = "network-none",
    /// The internet, without the host and what is private; on a provider without a wall for the network, the host's as it is.
    NetworkOpen = "network-open",
    /// What rules allow, by name, address, port and protocol.
    NetworkRules = "network-rules",
    /// Datagrams (UDP) beyond questions for names, decided about as connections are.
    NetworkUdp = "network-udp",
    /// The runtime within the provider, chosen per sandbox.
    Runtime = "runtime",
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The features that a provider claims.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeatureSet(BTreeSet<Feature>);

impl FeatureSet {
    /// Whether the feature is claimed.
    pub fn has(&self, feature: Feature) -> bool {
        self.0.contains(&feature)
    }

    /// The same set without `feature`.
    #[must_use]
    pub fn without(mut self, feature: Feature) -> Self {
        self.0.remove(&feature);
        self
    }

    /// The features, in the order of their declaration.
    pub fn iter(&self) -> impl Iterator<Item = Feature> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<Feature> for FeatureSet {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        Self(features.into_iter().collect())
    }
}

/// What one provider claims at its best, known without asking the machine: the source of "provider X has it" in refusals.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The provider's name.
    pub provider: &'static str,
    /// What it can do where everything it needs is there.
    pub features: FeatureSet,
}

impl Claim {
    /// The refusal of a feature that `provider` does not claim, naming those of `others` that have it.
    pub fn refusal(provider: &str, feature: Feature, others: &[Self]) -> Error {
        let having: Vec<&str> =
            others.iter().filter(|claim| claim.provider != provider && claim.features.has(feature)).map(|claim| claim.provider).collect();
        let error = Error::new(ErrorKind::Unsupported, "check", format!("{provider} does not have {feature}"));
        let at_its_best = others.iter().any(|claim| claim.provider == provider && claim.features.has(feature));
        if having.is_empty() && at_its_best {
            error.with_hint(format!(
                "{provider} can have {feature} where the host allows it: as root, or with a control group delegated to this user"
            ))
        } else if having.is_empty() {
            error.with_hint(format!("no provider in this build has {feature}"))
        } else {
            error.with_hint(format!("{feature} is available with --on {}", having.join(" or --on ")))
        }
    }

    /// Refuses unless `claimed` has the feature.
    ///
    /// # Errors
    /// `Unsupported`, with the providers that have it as the hint.
    pub fn require(provider: &str, claimed: &FeatureSet, feature: Feature, others: &[Self]) -> Result<()> {
        if claimed.has(feature) { Ok(()) } else { Err(Self::refusal(provider, feature, others)) }
    }
}
