use sandbar_core::{CheckpointId, CheckpointKind, Error, ErrorKind, Result, SandboxId, SandboxSpec, check_name};
use serde::{Deserialize, Serialize};

use crate::{image::Digest, ledger::CheckpointRow};

/// The name of the manifest's annotation that holds it.
pub(super) const ANNOTATION: &str = "dev.sandbar.checkpoint";

const VERSION: u32 = 1;
/// Longer references are no names of images.
const LONGEST_REFERENCE: usize = 512;

/// What a file says of the checkpoint in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Description {
    version: u32,
    /// The id that it had where it came from.
    pub(super) id: CheckpointId,
    #[serde(default)]
    pub(super) name: Option<String>,
    pub(super) sandbox: SandboxId,
    kind: CheckpointKind,
    pub(super) provider: String,
    pub(super) created_ms: u64,
    /// What it was asked to be, without what it may reach.
    pub(super) spec: SandboxSpec,
    /// How many of the layers, from the highest down, are the checkpoint's own.
    pub(super) own_layers: usize,
    pub(super) image: DescribedImage,
}

/// The image below the checkpoint's own layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DescribedImage {
    /// As it was called there.
    pub(super) reference: String,
    /// Its id; none when image and checkpoint were made one layer.
    #[serde(default)]
    pub(super) id: Option<Digest>,
    /// Its configuration, word for word, when the layers in the file are the very ones that it names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) configuration: Option<String>,
    /// Whether its layers were left out.
    #[serde(default)]
    pub(super) left_out: bool,
}

impl Description {
    /// Of a checkpoint that leaves.
    pub(super) fn of(row: &CheckpointRow, own_layers: usize, image: DescribedImage) -> Self {
        Self {
            version: VERSION,
            id: row.id.clone(),
            name: row.name.clone(),
            sandbox: row.sandbox.clone(),
            // Whatever else it held stays here.
            kind: CheckpointKind::Disk,
            provider: row.provider.clone(),
            created_ms: row.created_ms,
            spec: without_reach(&row.spec).0,
            own_layers,
            image,
        }
    }

    /// Reads one, and judges it.
    ///
    /// # Errors
    /// `Corrupt` for damage; `Unsupported` for what a newer sandbar has written.
    pub(super) fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let damaged = |source: serde_json::Error| corrupt("the file's description of the checkpoint is damaged").with_source(source);
        let Versioned { version } = serde_json::from_str(text).map_err(damaged)?;
        if version > VERSION {
            let message = "the file was written by a newer sandbar";
            return Err(Error::new(ErrorKind::Unsupported, "import", message).with("version", version).with("supported", VERSION));
        }
        let mut description: Self = serde_json::from_str(text).map_err(damaged)?;
        if description.kind != CheckpointKind::Disk {
            return Err(Error::new(ErrorKind::Unsupported, "import", "a checkpoint with memory is bound to the machine that made it"));
        }
        description.spec.limits.check().map_err(|error| corrupt("the file asks for limits that cannot be").with_source(error))?;
        if description.image.reference.len() > LONGEST_REFERENCE || description.provider.len() > LONGEST_REFERENCE {
            return Err(corrupt("the file's description of the checkpoint has a name that is too long"));
        }
        description.name = description.name.filter(|name| check_name(name).is_ok());
        description.spec = without_reach(&description.spec).0;
        Ok(description)
    }
}

/// A specification without what its sandbox may reach on a host, and what was taken out.
pub(super) fn without_reach(spec: &SandboxSpec) -> (SandboxSpec, Vec<String>) {
    let mut taken = Vec::new();
    let mut plain = spec.clone();
    for volume in std::mem::take(&mut plain.volumes) {
        taken.push(format!("the volume {}", volume.target.display()));
    }
    if std::mem::take(&mut plain.network).policy().is_some() {
        taken.push("the network".to_owned());
    }
    for secret in std::mem::take(&mut plain.secrets).list {
        taken.push(format!("the secret {}", secret.name));
    }
    if let Some(runtime) = plain.runtime.take() {
        taken.push(format!("the runtime {runtime}"));
    }
    (plain, taken)
}

fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, "import", message)
}

#[cfg(test)]
mod tests {
    use sandbar_core::{Limits, Network, Secrets, Volume};

    use super::*;

    fn description() -> Description {
        Description {
            version: VERSION,
            id: CheckpointId::from_random([1; 8]),
            name: Some("clean".to_owned()),
            sandbox: SandboxId::from_random([2; 8]),
            kind: CheckpointKind::Disk,
            provider: "container".to_owned(),
            created_ms: 1,
            spec: SandboxSpec::default(),
            own_layers: 1,
            image: DescribedImage { reference: "tiny".to_owned(), id: None, configuration: None, left_out: false },
        }
    }

    fn parse(description: &Description) -> Result<Description> {
        Description::parse(&serde_json::to_string(description).unwrap())
    }

    #[test]
    fn it_reads_what_it_writes() {
        assert_eq!(parse(&description()).unwrap(), description());
    }

    #[test]
    fn what_a_sandbox_may_reach_is_never_taken_from_a_file() {
        let spec = SandboxSpec {
            network: Network::Open,
            volumes: vec![Volume { source: "/".into(), target: "/host".into(), read_only: false }],
            runtime: Some("runc".to_owned()),
            secrets: Secrets { vault: Some("x".to_owned()), list: vec!["T=file:/etc/shadow@evil.test".parse().unwrap()] },
            limits: Limits { memory: Some(1 << 30), ..Limits::default() },
            ..SandboxSpec::default()
        };
        let read = parse(&Description { spec, ..description() }).unwrap().spec;
        assert_eq!((read.network, read.volumes.len(), read.runtime), (Network::Default, 0, None));
        assert_eq!(read.secrets, Secrets::default());
        assert_eq!(read.limits.memory, Some(1 << 30));
    }

    #[test]
    fn memory_later_versions_and_nonsense_are_refused() {
        let later = Description { version: 2, ..description() };
        assert_eq!(parse(&later).unwrap_err().kind(), ErrorKind::Unsupported);
        let memory = Description { kind: CheckpointKind::Memory, ..description() };
        assert_eq!(parse(&memory).unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(Description::parse("{}").unwrap_err().kind(), ErrorKind::Corrupt);
        let long = DescribedImage { reference: "x".repeat(4096), ..description().image };
        assert_eq!(parse(&Description { image: long, ..description() }).unwrap_err().kind(), ErrorKind::Corrupt);
        let odd = Description { name: Some("-x y".to_owned()), ..description() };
        assert_eq!(parse(&odd).unwrap().name, None);
    }
}
