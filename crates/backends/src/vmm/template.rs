use std::{os::unix::fs::MetadataExt, path::Path};

use sandbar_core::{Context, Limits, Network, Result, SandboxSpec};
use sandbar_guest::RootImage;
use sha2::{Digest, Sha256};

use super::{OwnedBoot, SCRATCH, check_volumes, kernel, shape::Shape};
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
pub(crate) fn template(home: &Path, engine: Engine<'_>, agent: &AgentFile, boot: &OwnedBoot) -> Result<Option<TemplateKey>> {
    check_volumes(&boot.spec.volumes)?;
    if boot.folder.join(SCRATCH).exists() || !boot.root.saved_layers.is_empty() {
        return Ok(None);
    }
    let Engine { provider, program, bound } = engine;
    let limits = &boot.spec.limits;
    let shape = Shape::of(limits)?;
    let (kernel, initramfs) = kernel(home, agent)?;
    let image = RootImage::new(home).of(&boot.root)?;
    // What a kernel and a first file system are, their digests say; a machine is bound to where they are as well. An image that was made again may have
    // its files where a guest's memory does not look for them.
    let files = vec![kernel.for_qemu().display().to_string(), initramfs.display().to_string(), as_it_is(&image)?];
    let mut parts = vec![
        ("kernel", kernel.summary.digest),
        // By another name it is in another place: whoever boots it from there must not take its template from who begins from it here.
        ("kernel name", kernel.summary.name),
        ("image", RootImage::name(&boot.root)?),
        ("agent", AgentFile::digest().to_owned()),
        ("program", as_it_is(program)?),
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
    Ok(Some(TemplateKey { folder: home.join("templates"), parts, name: format!("{provider}-{name}"), files, spec }))
}

/// What tells a file from another that has its name.
fn as_it_is(file: &Path) -> Result<String> {
    let known = file.metadata().context("template", || format!("cannot look at {}", file.display()))?;
    Ok(format!("{} of {} bytes, changed at {}.{}", file.display(), known.len(), known.mtime(), known.mtime_nsec()))
}
