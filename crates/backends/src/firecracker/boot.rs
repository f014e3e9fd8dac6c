use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use prost::Message;
use sandbar_core::{Context, IdRange, Journal, Lifetime, Result, RootSource, SandboxId, SandboxSpec};
use sandbar_guest::{KernelStore, RootImage, Scratch, config_disk, initramfs};
use sandbar_protocol::{AgentConfig, DiskRole, GuestBoot, GuestDisk, GuestWire};
use serde_json::{Value, json};

use super::{
    start::{STEPS, Site},
    vsock,
    wall::Place,
};
use crate::machine::{
    Boot,
    agent::AgentFile,
    config::agent_config,
    shape::{self, Shape},
};

const OPERATION: &str = "firecracker start";
/// The files of a machine's folder, and of a generation's.
const KERNEL: &str = "vmlinux";
const INITRAMFS: &str = "initramfs";
const MACHINE: &str = "machine.json";
pub(super) const CONFIG: &str = "config.img";
pub(super) const IMAGE: &str = "image.squashfs";
pub(super) const SAVED: &str = "saved.squashfs";
pub(super) const SCRATCH: &str = "scratch.img";
/// Nobody else has a device of that number in this guest.
const CID: u32 = 3;
/// The kernel's command line: as little on the emulated serial port as possible, and an end instead of a restart.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 quiet reboot=k panic=1 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd random.trust_cpu=on";

/// A boot with everything owned, for a thread that may block.
pub(super) struct OwnedBoot {
    id: SandboxId,
    spec: SandboxSpec,
    pub(super) root: RootSource,
    pub(super) folder: PathBuf,
    generation: u32,
    ids: Option<IdRange>,
    lifetime: Lifetime,
    pub(super) journal: Arc<dyn Journal>,
}

impl OwnedBoot {
    pub(super) fn of(boot: &Boot<'_>) -> Self {
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

    /// Starts a machine that boots its kernel. Undoes what it did when it fails, but for the content of the folder. Blocks.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn run(&self, home: &Path, agent: &AgentFile) -> Result<Place> {
        let kernel = KernelStore::new(home).newest()?;
        let shape = Shape::of(&self.spec.limits)?;
        let image = RootImage::new(home).of(&self.root)?;
        let site = self.site()?;
        site.place(&kernel.vmlinux(), KERNEL)?;
        site.place(&initramfs(&kernel, agent.path()?, AgentFile::digest())?, INITRAMFS)?;
        site.place(&image, IMAGE)?;
        let mut disks = vec![("config", CONFIG, true), ("image", IMAGE, true)];
        let mut roles = vec![DiskRole::Layer];
        if !self.root.saved_layers.is_empty() {
            let saved = self.once(SAVED, |path| RootImage::of_saved(&self.root.saved_layers, path))?;
            site.place(&saved, SAVED)?;
            disks.push(("saved", SAVED, true));
            roles.push(DiskRole::Layer);
        }
        let scratch = self.once(SCRATCH, |path| Scratch::make(path, shape.disk))?;
        site.place_own(&scratch, SCRATCH)?;
        disks.push(("scratch", SCRATCH, false));
        roles.push(DiskRole::Scratch);
        self.write(CONFIG, &config_disk(&self.config(&roles).encode_to_vec()))?;
        site.place(&self.folder.join(CONFIG), CONFIG)?;
        self.write(MACHINE, machine(shape, &disks).to_string().as_bytes())?;
        site.place(&self.folder.join(MACHINE), MACHINE)?;
        self.journal.step(STEPS[0]);
        let place = site.start(&["--config-file", MACHINE], agent, self.lifetime, &self.journal)?;
        Ok(self.with_limits(place))
    }

    /// The folder of this generation's machine.
    pub(super) fn site(&self) -> Result<Site> {
        Site::make(&self.id.to_string(), self.generation, &self.folder, self.ids)
    }

    /// Starts a machine that waits to be told what it is.
    pub(super) fn start_waiting(&self, site: Site, agent: &AgentFile) -> Result<Place> {
        let place = site.start(&[], agent, self.lifetime, &self.journal)?;
        Ok(self.with_limits(place))
    }

    fn with_limits(&self, place: Place) -> Place {
        Place { limits: shape::reports(&self.spec.limits), ..place }
    }

    /// A file of the generation that is made once, and found by a start after a stop.
    fn once(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let (path, new) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        if !path.exists() {
            let _ = fs::remove_file(&new);
            make(&new)?;
            fs::rename(&new, &path).context(OPERATION, || format!("cannot keep {name}"))?;
        }
        Ok(path)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        fs::write(self.folder.join(name), bytes).context(OPERATION, || format!("cannot write {name}"))
    }

    fn config(&self, roles: &[DiskRole]) -> AgentConfig {
        let disks = roles.iter().map(|role| GuestDisk { role: (*role).into(), target: Vec::new() }).collect();
        let limits = &self.spec.limits;
        AgentConfig {
            init: true,
            open_files: Some(shape::open_files(limits)),
            oom_score_adj: 500,
            guest: Some(GuestBoot {
                disks,
                hostname: self.spec.hostname.clone().unwrap_or_else(|| self.id.to_string()),
                wire: GuestWire::Vsock.into(),
                limits: Some(shape::guest_limits(limits)),
            }),
            ..agent_config(&self.spec, &self.root)
        }
    }
}

/// What Firecracker is told of a machine that boots.
fn machine(shape: Shape, disks: &[(&str, &str, bool)]) -> Value {
    let drives: Vec<Value> = disks
        .iter()
        .map(|(id, path, read_only)| json!({ "drive_id": id, "path_on_host": path, "is_root_device": false, "is_read_only": read_only }))
        .collect();
    json!({
        "boot-source": { "kernel_image_path": KERNEL, "initrd_path": INITRAMFS, "boot_args": KERNEL_ARGUMENTS },
        "drives": drives,
        "machine-config": { "vcpu_count": shape.processors, "mem_size_mib": shape.memory >> 20 },
        "vsock": { "guest_cid": CID, "uds_path": vsock::SOCKET },
    })
}
