use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;
use sandbar_core::{Context, IdRange, Journal, Lifetime, Result, RootSource, SandboxId, SandboxSpec};
use sandbar_guest::{Kernel, KernelStore, RootImage, Scratch, config_disk, initramfs};
use sandbar_protocol::{AgentConfig, DiskRole, GuestBoot, GuestDisk, GuestWire};
use serde::{Deserialize, Serialize};

use super::shape::{self, Shape};
use crate::machine::{Boot, agent::AgentFile, config::agent_config};

const OPERATION: &str = "machine start";
/// The disks that are a generation's own, in its folder: the configuration, the layers of a checkpoint, what is written.
pub(crate) const CONFIG: &str = "config.img";
pub(crate) const SAVED: &str = "saved.squashfs";
pub(crate) const SCRATCH: &str = "scratch.img";

/// `CAP_SYS_RESOURCE` (24, `linux/capability.h`) as a bit mask.
const SYS_RESOURCE: u64 = 1 << 24;

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Disk {
    /// Relative to the generation's folder, or absolute.
    pub(crate) path: PathBuf,
    pub(crate) read_only: bool,
}

impl Disk {
    fn read_only(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), read_only: true }
    }
}

/// The kernel that a machine boots next, and its first file system. Blocks for some milliseconds, when that must be made.
///
/// # Errors
/// `Unavailable` without a kernel; of the file system.
pub(crate) fn kernel(home: &Path, agent: &AgentFile) -> Result<(Kernel, PathBuf)> {
    let kernel = KernelStore::new(home).newest()?;
    let initramfs = initramfs(&kernel, agent.path()?, AgentFile::digest())?;
    Ok((kernel, initramfs))
}

/// What a machine is put together from.
#[derive(Debug)]
pub(crate) struct Materials {
    pub(crate) shape: Shape,
    pub(crate) kernel: Kernel,
    pub(crate) initramfs: PathBuf,
    /// In the order in which the guest finds them.
    pub(crate) disks: Vec<Disk>,
}

/// A boot with everything owned, for a thread that may block.
pub(crate) struct OwnedBoot {
    pub(crate) id: SandboxId,
    pub(crate) spec: SandboxSpec,
    pub(crate) root: RootSource,
    pub(crate) folder: PathBuf,
    /// 0 for what becomes a template.
    pub(crate) generation: u32,
    /// Host ids, when the runtime runs as root.
    pub(crate) ids: Option<IdRange>,
    pub(crate) lifetime: Lifetime,
    pub(crate) journal: Arc<dyn Journal>,
}

impl OwnedBoot {
    pub(crate) fn of(boot: &Boot<'_>) -> Self {
        Self {
            id: boot.id.clone(),
            spec: boot.spec.clone(),
            root: boot.root.clone(),
            folder: boot.folder.to_owned(),
            generation: boot.generation,
            ids: boot.ids,
            lifetime: boot.lifetime,
            journal: Arc::clone(boot.journal),
        }
    }

    /// Makes what the machine is booted from. What the folder has already, of a start before, stays as it is, but for the configuration. Blocks.
    ///
    /// # Errors
    /// `NotFound` without a kernel, `Unsupported` for an image without layers, of the programs that make disks.
    pub(crate) fn materials(&self, home: &Path, agent: &AgentFile, wire: GuestWire) -> Result<Materials> {
        let (kernel, initramfs) = kernel(home, agent)?;
        let shape = Shape::of(&self.spec.limits)?;
        let image = RootImage::new(home).of(&self.root)?;
        let mut disks = vec![Disk::read_only(CONFIG), Disk::read_only(image)];
        let mut roles = vec![DiskRole::Layer];
        if !self.root.saved_layers.is_empty() {
            self.once(SAVED, |path| RootImage::of_saved(&self.root.saved_layers, path))?;
            disks.push(Disk::read_only(SAVED));
            roles.push(DiskRole::Layer);
        }
        self.once(SCRATCH, |path| Scratch::make(path, shape.disk))?;
        disks.push(Disk { path: SCRATCH.into(), read_only: false });
        roles.push(DiskRole::Scratch);
        let config = config_disk(&self.config(&roles, wire).encode_to_vec());
        fs::write(self.folder.join(CONFIG), config).context(OPERATION, || "cannot write the configuration's disk".to_owned())?;
        Ok(Materials { shape, kernel, initramfs, disks })
    }

    /// What the agent of a machine is told that was not booted for it: its disks are mounted already.
    pub(crate) fn later_config(&self, wire: GuestWire) -> AgentConfig {
        self.config(&[], wire)
    }

    fn config(&self, roles: &[DiskRole], wire: GuestWire) -> AgentConfig {
        let disks = roles.iter().map(|role| GuestDisk { role: (*role).into(), target: Vec::new() }).collect();
        let limits = &self.spec.limits;
        AgentConfig {
            init: true,
            open_files: Some(shape::open_files(limits)),
            oom_score_adj: 500,
            egress: self.leaves(),
            // With that right a command would lift the limit.
            capabilities: limits.open_files.map(|_| !SYS_RESOURCE),
            guest: Some(GuestBoot {
                disks,
                hostname: self.spec.hostname.clone().unwrap_or_else(|| self.id.to_string()),
                wire: wire.into(),
                limits: Some(shape::guest_limits(limits)),
            }),
            ..agent_config(&self.spec, &self.root)
        }
    }

    /// Whether anything may leave: then the agent has to redirect it.
    pub(super) fn leaves(&self) -> bool {
        self.spec.network.policy().is_some()
    }

    /// A file of the folder that is made once, whole or not at all, and found by a start after a stop.
    fn once(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (path, new) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        if path.exists() {
            return Ok(());
        }
        let _ = fs::remove_file(&new);
        make(&new)?;
        fs::rename(&new, &path).context(OPERATION, || format!("cannot keep {name}"))
    }
}
