use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use sandbar_protocol::SERIAL_PORT;
use serde::{Deserialize, Serialize};

use super::{Accelerator, CONSOLE_SOCKET, QMP_SOCKET, WIRE_SOCKET, confinement::SOCKETS};
use crate::vmm::{Disk, DiskRate, Shape};

/// For a kernel that has nobody to talk to but us: `quiet`; ends at once when it panics, which ends QEMU, which is told not to reboot; no
/// mitigations against processes of its own guest, whose wall is the machine; no time spent on calibrating an emulated clock.
const KERNEL_LINE: &str =
    "console=ttyS0 quiet panic=-1 reboot=t mitigations=off no_timer_check tsc=reliable random.trust_cpu=on 8250.nr_uarts=1";

/// What breaks out of the machine finds itself in a process that may start no programs and change no ids. A QEMU that was built without libseccomp refuses it.
pub(super) const SANDBOX: [&str; 2] = ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"];

/// Where a machine's memory is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Memory {
    /// The machine's own.
    Anonymous,
    /// In a file that the machine changes: what is to become an image.
    Shared(PathBuf),
    /// A private view of a file that nobody changes.
    View(PathBuf),
}

/// A machine as it is started, and as its record has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) program: PathBuf,
    pub(super) accelerator: Accelerator,
    pub(super) shape: Shape,
    pub(super) kernel: PathBuf,
    pub(super) initramfs: PathBuf,
    /// In the order in which the guest finds them.
    pub(super) disks: Vec<Disk>,
    pub(super) memory: Memory,
    #[serde(default)]
    pub(super) rate: DiskRate,
    /// The user that its process becomes; `None` without root.
    #[serde(default)]
    pub(super) user: Option<u32>,
}

impl Machine {
    /// QEMU's arguments. `waiting`: the machine does nothing until its state is loaded.
    pub(super) fn arguments(&self, waiting: bool) -> Vec<OsString> {
        let mut line = Line::default();
        let processor = match self.accelerator {
            Accelerator::Kvm => "host",
            // Where a guest takes the instructions for bytes for fast, it clears and copies its pages with them, and emulated they go byte by byte.
            Accelerator::Tcg => "max,-erms",
        };
        let threads = if self.accelerator == Accelerator::Tcg { ",thread=multi" } else { "" };
        line.option("-M", "q35,memory-backend=ram,graphics=off,vmport=off,hpet=off");
        line.option("-accel", &format!("{}{threads}", self.accelerator.name()));
        line.option("-cpu", processor);
        line.option("-smp", &self.shape.processors.to_string());
        let size = self.shape.memory;
        line.option("-m", &format!("{size}B"));
        match &self.memory {
            Memory::Anonymous => line.option("-object", &format!("memory-backend-ram,id=ram,size={size}")),
            Memory::Shared(path) => line.with_path("-object", &format!("memory-backend-file,id=ram,size={size},share=on,mem-path="), path),
            Memory::View(path) => line.with_path("-object", &format!("memory-backend-file,id=ram,size={size},share=off,mem-path="), path),
        }
        for flag in ["-nodefaults", "-no-user-config", "-no-reboot"] {
            line.0.push(flag.into());
        }
        line.option("-display", "none");
        line.option(SANDBOX[0], SANDBOX[1]);
        line.with_path("-kernel", "", &self.kernel);
        line.with_path("-initrd", "", &self.initramfs);
        line.option("-append", KERNEL_LINE);
        line.socket("console", CONSOLE_SOCKET);
        line.option("-serial", "chardev:console");
        line.option("-device", "virtio-serial-pci");
        line.socket("wire", WIRE_SOCKET);
        line.option("-device", &format!("virtserialport,chardev=wire,name={SERIAL_PORT}"));
        line.socket("control", QMP_SOCKET);
        line.option("-mon", "chardev=control,mode=control");
        line.option("-device", "virtio-rng-pci");
        for (index, disk) in self.disks.iter().enumerate() {
            // A read-only file may be used by many machines, and is locked by none.
            let access = if disk.read_only { "readonly=on,file.locking=off" } else { "readonly=off" };
            let throttle = if disk.read_only { String::new() } else { self.throttle() };
            line.with_path("-drive", &format!("if=none,id=disk{index},format=raw,{access}{throttle},file="), &disk.path);
            line.option("-device", &format!("virtio-blk-pci,drive=disk{index}"));
        }
        if waiting {
            line.option("-incoming", "defer");
        }
        line.0
    }

    /// What bounds the disk that is written.
    fn throttle(&self) -> String {
        let option = |name: &str, value: Option<u64>| value.map(|value| format!(",throttling.{name}={value}")).unwrap_or_default();
        option("bps-total", self.rate.bytes) + &option("iops-total", self.rate.operations)
    }
}

#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn option(&mut self, name: &str, value: &str) {
        self.0.extend([name.into(), value.into()]);
    }

    /// A socket that it finds open: so it needs no folder that it may write to.
    fn socket(&mut self, id: &str, name: &str) {
        let descriptor = 3 + SOCKETS.iter().position(|socket| *socket == name).unwrap_or_default();
        self.option("-chardev", &format!("socket,id={id},fd={descriptor},server=on,wait=off"));
    }

    /// An option that ends with a path. QEMU takes a comma for the next part, unless it is doubled; where an option is nothing but a path it is not
    /// parsed.
    fn with_path(&mut self, name: &str, before: &str, path: &Path) {
        let mut value = before.as_bytes().to_vec();
        for byte in path.as_os_str().as_bytes() {
            value.push(*byte);
            if *byte == b',' && !before.is_empty() {
                value.push(b',');
            }
        }
        self.0.extend([name.into(), OsString::from_vec(value)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_in_a_path_is_no_option() {
        let machine = Machine {
            program: "/q".into(),
            accelerator: Accelerator::Tcg,
            shape: Shape { memory: 1 << 28, processors: 1, disk: 0 },
            kernel: "/k,readonly=off".into(),
            initramfs: "/i".into(),
            disks: vec![Disk { path: "/a,b".into(), read_only: true }],
            memory: Memory::View("/m,n".into()),
            rate: DiskRate::default(),
            user: None,
        };
        let line = machine.arguments(true);
        let has = |end: &str| line.iter().any(|word| word.to_string_lossy().ends_with(end));
        assert!(has("file=/a,,b") && has("mem-path=/m,,n") && has("/k,readonly=off") && has("defer"));
    }
}
