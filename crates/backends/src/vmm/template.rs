use std::{os::unix::fs::MetadataExt, path::Path};

use sandbar_core::{Context, Limits, Network, Result, SandboxSpec};
use sandbar_guest::{KernelStore, RootImage};
use sha2::{Digest, Sha256};

use super::{OwnedBoot, SCRATCH, check_volumes, shape::Shape};
use crate::machine::{TemplateKey, agent::AgentFile};

/// A monitor, as far as it makes two templates different.
pub(crate) struct Engine<'a> {
    /// The provider.
    pub(crate) provider: &'static str,
    /// Its program: another file may be another version, and asking for that takes as long as loading a template.
    pub(crate) program: &'a Path,
    /// What else a saved machine is bound to.
    pub(crate) bound: Vec<(&'static str, String)>,
}

/// The template that a machine could begin from: none when it has a disk already, or layers of a checkpoint to begin with.
///
/// # Errors
/// As a boot would have.
pub(crate) fn template(home: &Path, engine: Engine<'_>, boot: &OwnedBoot) -> Result<Option<TemplateKey>> {
    check_volumes(&boot.spec.volumes)?;
    if boot.folder.join(SCRATCH).exists() || !boot.root.saved_layers.is_empty() {
        return Ok(None);
    }
    let Engine { provider, program, bound } = engine;
    let file = program.metadata().context("template", || format!("cannot look at {}", program.display()))?;
    let limits = &boot.spec.limits;
    let shape = Shape::of(limits)?;
    let mut parts = vec![
        ("kernel", KernelStore::new(home).newest()?.summary.digest),
        ("image", RootImage::name(&boot.root)?),
        ("agent", AgentFile::digest().to_owned()),
        ("program", format!("{} of {} bytes, changed at {}.{}", program.display(), file.len(), file.mtime(), file.mtime_nsec())),
        ("memory", shape.memory.to_string()),
        ("processors", shape.processors.to_string()),
        ("disk", shape.disk.to_string()),
    ];
    let mut network = Network::None;
    if boot.leaves() {
        // What leaves is redirected before the first command, and by whoever may do so then only. What is allowed, the host decides.
        parts.push(("network", "redirected".to_owned()));
        network = Network::Open;
    }
    parts.extend(bound);
    let mut hash = Sha256::new();
    for (name, value) in &parts {
        hash.update(format!("{name}={value}\n"));
    }
    let name = hex::encode(&hash.finalize()[..8]);
    // What makes the machine's shape, and nothing else.
    let limits = Limits { memory: limits.memory, cpu_millis: limits.cpu_millis, disk: limits.disk, ..Limits::default() };
    let spec = SandboxSpec { limits, hostname: Some("sandbar".to_owned()), network, ..SandboxSpec::default() };
    Ok(Some(TemplateKey { folder: home.join("templates"), parts, name: format!("{provider}-{name}"), spec }))
}
