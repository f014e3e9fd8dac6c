use std::{
    fs,
    path::{Path, PathBuf},
};

use sandbar_core::{Context, Result};
use sandbar_protocol::GuestWire;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    api::Api,
    engine::Engine,
    start::Start,
    vsock,
    wall::{CONTROL, Place},
};
use crate::{
    machine::agent::AgentFile,
    vmm::{self, Disk, DiskRate, Materials, OwnedBoot, Shape},
};

/// The names of files in a machine's room.
const KERNEL: &str = "vmlinux";
const INITRAMFS: &str = "initramfs";
const CONFIG: &str = "firecracker.json";
/// Nobody else has a device of that number in this guest.
const CID: u32 = 3;
/// In milliseconds.
const SECOND: u64 = 1000;
/// For a kernel that has nobody to talk to but us: `quiet`, as little on the emulated serial port as possible; ends when it panics or restarts, which
/// ends Firecracker; no buses and devices that are not there; no mitigations against processes of its own guest, whose wall is the machine.
const KERNEL_LINE: &str = "console=ttyS0 quiet reboot=k panic=-1 pci=off 8250.nr_uarts=1 i8042.noaux i8042.nomux i8042.dumbkbd mitigations=off \
     no_timer_check random.trust_cpu=on";

/// A machine as it is started, and as its record has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Machine {
    /// Of this generation of this sandbox: jail and control group have it.
    pub(super) name: String,
    /// The user of its jail; `None` without one.
    pub(super) user: Option<u32>,
    pub(super) shape: Shape,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    /// In the order in which the guest finds them.
    pub(super) disks: Vec<Disk>,
    /// Whether it was booted to be saved and ended.
    pub(super) is_template: bool,
    #[serde(default)]
    pub(super) rate: DiskRate,
}

impl Machine {
    /// What a boot is called.
    pub(super) fn name(boot: &OwnedBoot) -> String {
        format!("{}-g{}", boot.id, boot.generation)
    }

    /// What a disk is called in the machine's room, and in what is saved of it.
    pub(super) fn disk(index: usize) -> String {
        format!("disk{index}")
    }

    /// What Firecracker is told of a machine that boots.
    fn config(&self) -> Value {
        let drive = |(index, disk): (usize, &Disk)| {
            let name = Self::disk(index);
            let mut drive = json!({ "drive_id": name, "path_on_host": name, "is_root_device": false, "is_read_only": disk.read_only });
            if !disk.read_only && self.rate != DiskRate::default() {
                drive["rate_limiter"] = limiter(self.rate);
            }
            drive
        };
        let drives: Vec<Value> = self.disks.iter().enumerate().map(drive).collect();
        json!({
            "boot-source": { "kernel_image_path": KERNEL, "initrd_path": INITRAMFS, "boot_args": KERNEL_LINE },
            "drives": drives,
            "machine-config": { "vcpu_count": self.shape.processors, "mem_size_mib": self.shape.memory >> 20 },
            "vsock": { "guest_cid": CID, "uds_path": vsock::SOCKET },
            "entropy": {},
        })
    }

    /// Has the disk that is written bounded as this machine's is, whatever it was when it was saved. Blocks.
    ///
    /// # Errors
    /// Of Firecracker.
    pub(super) fn limit_disk(&self, api: &Api<'_>) -> Result<()> {
        for (index, _) in self.disks.iter().enumerate().filter(|(_, disk)| !disk.read_only) {
            let name = Self::disk(index);
            api.patch(&format!("/drives/{name}"), &json!({ "drive_id": name, "rate_limiter": limiter(self.rate) }), CONTROL)?;
        }
        Ok(())
    }

    /// Starts it, to boot its kernel. Undoes what it did when it fails, but for the content of the folder. Blocks.
    ///
    /// # Errors
    /// The step that failed.
    pub(super) fn boot(&self, start: &Start<'_>) -> Result<Place> {
        let (room, jail) = start.room(self)?;
        let config = start.generation.join(CONFIG);
        fs::write(&config, self.config().to_string()).context("firecracker start", || format!("cannot write {}", config.display()))?;
        for (file, name) in [(&self.kernel, KERNEL), (&self.initramfs, INITRAMFS), (&config, CONFIG)] {
            room.show(file, name)?;
        }
        start.run(self, (room, jail), &["--config-file", CONFIG])
    }
}

/// As Firecracker has it. Nothing at all is no limit.
///
/// A bucket is looked at again when it is empty, and then gets all that came while it was full, up to its size (`TokenBucket::auto_replenish`): after a rest,
/// twice its size passes at once. So its size is what half a second allows.
fn limiter(rate: DiskRate) -> Value {
    let bucket = |value: Option<u64>| match value {
        Some(value @ 1..) => {
            let size = value.div_ceil(2);
            json!({ "size": size, "refill_time": size.saturating_mul(SECOND).div_ceil(value) })
        }
        _ => json!({ "size": 0, "refill_time": 0 }),
    };
    json!({ "bandwidth": bucket(rate.bytes), "ops": bucket(rate.operations) })
}

/// Boots a machine. Blocks.
///
/// # Errors
/// Of what it is made of, or the step that failed.
pub(super) fn run(boot: &OwnedBoot, home: &Path, engine: &Engine, agent: &AgentFile) -> Result<Place> {
    // One that is too old is told before it fails.
    engine.version()?;
    let Materials { shape, kernel, initramfs, disks } = boot.materials(home, agent, GuestWire::Vsock)?;
    let machine = Machine {
        name: Machine::name(boot),
        user: engine.jail_user(boot.ids),
        shape,
        kernel: kernel.vmlinux(),
        initramfs,
        disks,
        is_template: boot.generation == 0,
        rate: DiskRate::of(&boot.spec.limits),
    };
    vmm::write_record(&machine, &boot.folder)?;
    let place = machine.boot(&start(boot, engine, agent))?;
    Ok(Place { limits: vmm::reports(&boot.spec.limits), ..place })
}

/// Where and for whom a sandbox's machine is started.
pub(super) fn start<'a>(boot: &'a OwnedBoot, engine: &'a Engine, agent: &'a AgentFile) -> Start<'a> {
    Start { engine, agent, generation: &boot.folder, lifetime: boot.lifetime, journal: &boot.journal, has_group: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_that_firecracker_is_told_is_a_name_in_its_room() {
        let disk = |path: &str, read_only| Disk { path: path.into(), read_only };
        let machine = Machine {
            name: "x-g1".to_owned(),
            user: None,
            shape: Shape { memory: 512 << 20, processors: 2, disk: 0 },
            kernel: "/k".into(),
            initramfs: "/i".into(),
            disks: vec![disk("/image", true), disk("scratch", false)],
            is_template: false,
            rate: DiskRate { bytes: Some(1 << 20), operations: None },
        };
        let config = machine.config();
        assert!(!config.to_string().contains("\"/"), "{config}");
        assert_eq!(config.pointer("/drives/1/path_on_host"), Some(&json!("disk1")));
        assert_eq!(config.pointer("/drives/1/is_read_only"), Some(&json!(false)));
        assert_eq!(config.pointer("/drives/0/rate_limiter"), None);
        let bandwidth = Some(&json!({ "size": 1 << 19, "refill_time": 500 }));
        assert_eq!(config.pointer("/drives/1/rate_limiter/bandwidth"), bandwidth);
        assert_eq!(limiter(DiskRate { bytes: Some(3), operations: Some(1) })["bandwidth"], json!({ "size": 2, "refill_time": 667 }));
        assert_eq!(limiter(DiskRate { bytes: Some(3), operations: Some(1) })["ops"], json!({ "size": 1, "refill_time": 1000 }));
        assert_eq!(config.pointer("/machine-config/mem_size_mib"), Some(&json!(512)));
    }
}
