use std::{os::unix::fs::MetadataExt, path::Path};

use sandbar_core::{Context, Error, ErrorKind, Limits, Result, RootSource, SandboxSpec};
use sandbar_guest::{KernelStore, RootImage};
use sha2::{Digest, Sha256};

use super::{boot::SCRATCH, command::Accelerator, info, memory, probe, shape::Shape};
use crate::machine::{Boot, TemplateKey, agent::AgentFile};

/// The template that a machine could begin from: none when it has a disk already, or layers of a checkpoint to begin with.
///
/// # Errors
/// As a boot would have.
pub(super) fn key(home: &Path, boot: &Boot<'_>) -> Result<Option<TemplateKey>> {
    if boot.folder.join(SCRATCH).exists() || !boot.root.saved_layers.is_empty() {
        return Ok(None);
    }
    of(home, boot.root, &boot.spec.limits).map(Some)
}

fn of(home: &Path, root: &RootSource, limits: &Limits) -> Result<TemplateKey> {
    let image = RootImage::name(root)?;
    let program = info::program()
        .ok_or_else(|| Error::new(ErrorKind::Unavailable, "qemu start", "qemu-system-x86_64 is missing").with_hint("sandbar setup qemu"))?;
    let file = program.metadata().context("qemu start", || format!("cannot look at {}", program.display()))?;
    let kernel = KernelStore::new(home).newest()?;
    let shape = Shape::of(limits)?;
    let accelerator = probe::accelerator();
    let mut parts = vec![
        ("kernel", kernel.summary.digest),
        ("image", image),
        ("agent", AgentFile::digest().to_owned()),
        // Asking it for its version takes as long as loading a template.
        ("qemu", format!("{} of {} bytes, changed at {}.{}", program.display(), file.len(), file.mtime(), file.mtime_nsec())),
        ("accelerator", accelerator.name().to_owned()),
        ("memory", shape.memory.to_string()),
        ("processors", shape.processors.to_string()),
        ("disk", shape.disk.to_string()),
    ];
    if accelerator == Accelerator::Kvm {
        parts.push(("processor", memory::processor()));
    }
    let mut hash = Sha256::new();
    for (name, value) in &parts {
        hash.update(format!("{name}={value}\n"));
    }
    let name: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    // What makes the machine's shape, and nothing else.
    let limits = Limits { memory: limits.memory, cpu_millis: limits.cpu_millis, disk: limits.disk, ..Limits::default() };
    let spec = SandboxSpec { limits, hostname: Some("sandbar".to_owned()), ..SandboxSpec::default() };
    Ok(TemplateKey { folder: home.join("templates"), parts, name: format!("qemu-{name}"), spec })
}
