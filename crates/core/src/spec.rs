use std::{collections::BTreeMap, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Feature, Network, Result, Secrets};

/// What a sandbox shall be, apart from its image and its provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxSpec {
    /// The host name inside; the sandbox's name or id when `None`.
    pub hostname: Option<String>,
    /// What it may use at most.
    pub limits: Limits,
    /// What it may reach.
    pub network: Network,
    /// What is put into its requests on their way. Needs somebody who decides about what leaves.
    #[serde(skip_serializing_if = "Secrets::is_empty")]
    pub secrets: Secrets,
    /// Host folders inside.
    pub volumes: Vec<Volume>,
    /// Environment of every command, over the image's.
    pub env: BTreeMap<String, String>,
    /// Working directory of every command; the image's, else the user's home, when `None`. Made if missing.
    pub workdir: Option<String>,
    /// The user of every command; the image's, else root, when `None`.
    pub user: Option<User>,
    /// The sandbox is destroyed this long after its creation.
    pub ttl: Option<Duration>,
    /// The runtime within the provider (`docker`: `runc`, `runsc` …).
    pub runtime: Option<String>,
}

impl SandboxSpec {
    /// The features that a provider must have for it.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        let volume = |volume: &Volume| if volume.read_only { Feature::VolumeReadOnly } else { Feature::VolumeReadWrite };
        let user = self.user.is_some().then_some(Feature::User);
        let runtime = self.runtime.is_some().then_some(Feature::Runtime);
        let secrets = (!self.secrets.is_empty()).then_some(Feature::NetworkRules);
        self.limits
            .features()
            .chain(self.network.features())
            .chain(secrets)
            .chain(self.volumes.iter().map(volume))
            .chain(user)
            .chain(runtime)
    }
}

/// The most that a sandbox may use. `None` is the provider's default, which `inspect` shows.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Memory of all processes together, bytes. Over it, the kernel ends processes inside.
    pub memory: Option<u64>,
    /// CPU time per wall time, in thousandths of one CPU: 1500 is one and a half.
    pub cpu_millis: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Bytes of the writable layer.
    pub disk: Option<u64>,
    /// Open files per process.
    pub open_files: Option<u64>,
    /// Bytes a second that are read from the writable layer's disk and written to it, together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_rate: Option<u64>,
    /// Reads and writes a second of the writable layer's disk, together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_operations: Option<u64>,
}

impl Limits {
    /// The features that these limits need.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        [
            (self.memory.is_some(), Feature::LimitMemory),
            (self.cpu_millis.is_some(), Feature::LimitCpu),
            (self.pids.is_some(), Feature::LimitPids),
            (self.disk.is_some(), Feature::LimitDisk),
            (self.open_files.is_some(), Feature::LimitOpenFiles),
            (self.disk_rate.is_some() || self.disk_operations.is_some(), Feature::LimitDiskRate),
        ]
        .into_iter()
        .filter_map(|(asked, feature)| asked.then_some(feature))
    }

    /// Refuses numbers that cannot work.
    ///
    /// # Errors
    /// `InvalidInput`, with the smallest number that is accepted.
    pub fn check(&self) -> Result<()> {
        let least = |name: &'static str, value: Option<u64>, least: u64| match value {
            Some(value) if value < least => {
                Err(Error::new(ErrorKind::InvalidInput, "limits", format!("{name} must be at least {least}")).with("value", value))
            }
            _ => Ok(()),
        };
        least("memory", self.memory, 4 << 20)?;
        least("cpus (thousandths)", self.cpu_millis.map(u64::from), 10)?;
        least("pids", self.pids.map(u64::from), 2)?;
        least("disk", self.disk, 1 << 20)?;
        least("open files", self.open_files, 16)?;
        least("disk rate", self.disk_rate, 64 << 10)?;
        least("disk operations", self.disk_operations, 10)
    }
}

/// A host folder (or file) inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The absolute path on the host. Must exist.
    pub source: PathBuf,
    /// The absolute path inside. Made if missing.
    pub target: PathBuf,
    /// Whether writing is refused.
    pub read_only: bool,
}

/// A user inside the sandbox.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum User {
    /// By name, looked up in the sandbox's own `/etc/passwd`; its groups come from there as well.
    Name(String),
    /// By number; the group is the user's of `/etc/passwd`, or the same number, when `None`.
    Id {
        /// The user.
        uid: u32,
        /// The group.
        gid: Option<u32>,
    },
}

impl FromStr for User {
    type Err = Error;

    /// `name`, `1000` or `1000:1000`.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::new(ErrorKind::InvalidInput, "user", "expected NAME, UID or UID:GID").with("value", format!("{text:?}"));
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group.parse::<u32>().map_err(|_| bad())?)),
            None => (text, None),
        };
        match user.parse::<u32>() {
            Ok(uid) if uid != u32::MAX && group != Some(u32::MAX) => Ok(Self::Id { uid, gid: group }),
            Err(_) if group.is_none() && !user.is_empty() && !user.contains(['\0', '/', '\n']) => Ok(Self::Name(user.to_owned())),
            _ => Err(bad()),
        }
    }
}

/// A range of host ids that belongs to one sandbox: `count` ids from `first`, the sandbox's 0 being `first`.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first host id.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Whether a sandbox outlives the process that made it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifetime {
    /// Until it is destroyed, or its time to live has passed.
    #[default]
    Detached,
    /// It ends with the process that made it, by `kill -9` too.
    Owned,
}
