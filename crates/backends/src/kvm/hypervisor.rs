//! What this machine runs in, if it is itself a guest.

use std::{fs, path::Path};

use super::cloud::Cloud;

/// A hypervisor below this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypervisor {
    /// Apple's, which Lima, Docker Desktop and others use on Macs.
    Apple {
        /// Whether it is Lima's virtual machine.
        lima: bool,
    },
    /// A cloud's, which alone decides what its instances can.
    Cloud(Cloud),
    /// Linux's, below QEMU, Firecracker, or a cloud that is not known.
    Kvm,
    /// QEMU without acceleration.
    Emulation,
    /// Windows'.
    HyperV {
        /// Whether this is the Windows Subsystem for Linux.
        wsl: bool,
    },
    /// VMware's.
    Vmware,
    /// VirtualBox.
    VirtualBox,
    /// Xen.
    Xen,
    /// Parallels.
    Parallels,
    /// One that does not say which.
    Other,
}

impl Hypervisor {
    /// Reads it from the firmware's tables and the processor's flags beneath `root`, and from `signature`, which a hypervisor gives at
    /// `cpuid` leaf 0x4000_0000.
    pub(super) fn below(root: &Path, signature: Option<[u8; 12]>) -> Option<Self> {
        let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
        let firmware = format!("{} {}", read("sys/class/dmi/id/sys_vendor"), read("sys/class/dmi/id/product_name")).to_lowercase();
        let lima = ["run/lima-boot-done", "mnt/lima-cidata"].iter().any(|mark| root.join(mark).exists());
        if firmware.contains("apple") {
            // Linux on a Mac's own hardware calls itself a Mac.
            return firmware.contains("virtual").then_some(Self::Apple { lima });
        }
        // Hardware that a cloud lets as it is has the cloud's name too, and on x86 no signature.
        let is_guest = signature.is_some() || !cfg!(target_arch = "x86_64");
        if let Some(cloud) = Cloud::of(root).filter(|_| is_guest) {
            return Some(Self::Cloud(cloud));
        }
        match signature.as_ref() {
            Some(b"KVMKVMKVM\0\0\0") => Some(Self::Kvm),
            Some(b"TCGTCGTCGTCG") => Some(Self::Emulation),
            Some(b"Microsoft Hv") => Some(Self::HyperV { wsl: read("proc/version").to_lowercase().contains("microsoft") }),
            Some(b"VMwareVMware") => Some(Self::Vmware),
            Some(b"VBoxVBoxVBox") => Some(Self::VirtualBox),
            Some(b"XenVMMXenVMM") => Some(Self::Xen),
            Some(b"prl hyperv  ") => Some(Self::Parallels),
            Some(_) => Some(Self::Other),
            None if lima => Some(Self::Apple { lima }),
            None if ["qemu", "virtual", "kvm", "amazon ec2", "google compute"].iter().any(|name| firmware.contains(name)) => {
                Some(Self::Other)
            }
            None => None,
        }
    }

    /// As a noun.
    pub fn name(self) -> &'static str {
        match self {
            Self::Apple { lima: true } => "Lima's virtual machine on Apple's hypervisor",
            Self::Apple { lima: false } => "a virtual machine on Apple's hypervisor",
            Self::Cloud(cloud) => cloud.name(),
            Self::Kvm => "a KVM virtual machine",
            Self::Emulation => "an emulated QEMU machine",
            Self::HyperV { wsl: true } => "the Windows Subsystem for Linux",
            Self::HyperV { wsl: false } => "a Hyper-V virtual machine",
            Self::Vmware => "a VMware virtual machine",
            Self::VirtualBox => "a VirtualBox virtual machine",
            Self::Xen => "a Xen domain",
            Self::Parallels => "a Parallels virtual machine",
            Self::Other => "a virtual machine",
        }
    }

    /// How its owner lets guests have guests.
    pub fn how_to_nest(self) -> &'static str {
        match self {
            Self::Apple { lima: true } => {
                "nesting needs an M3 or newer and macOS 15: set `vmType: vz` and `nestedVirtualization: true` in the instance's lima.yaml and restart it; older Macs cannot"
            }
            Self::Apple { lima: false } => "nesting needs an M3 or newer and macOS 15, and a program that turns it on; older Macs cannot",
            Self::Cloud(cloud) => cloud.how_to_nest(),
            Self::Kvm => {
                "turn nesting on at the host (`modprobe kvm_intel nested=1` or `kvm_amd nested=1`, and `-cpu host`), or, where it is a cloud's, take an instance type that has it"
            }
            Self::Emulation => "start QEMU with `-cpu max` (for AMD's extensions under emulation), or with acceleration and `-cpu host`",
            Self::HyperV { wsl: true } => "set `nestedVirtualization=true` under `[wsl2]` in .wslconfig and run `wsl --shutdown`",
            Self::HyperV { wsl: false } => {
                "turn the machine off and run `Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true`"
            }
            Self::Vmware => "turn the machine off and tick `Virtualize Intel VT-x/EPT or AMD-V/RVI` in its processor settings",
            Self::VirtualBox => "turn the machine off and run `VBoxManage modifyvm NAME --nested-hw-virt on`",
            Self::Xen => "set `nestedhvm=1` for the domain, or take an instance type that has nesting",
            Self::Parallels => "turn the machine off and tick `Enable nested virtualization` in its processor settings",
            Self::Other => "turn on nested virtualization for this machine where it is configured, or use one with hardware of its own",
        }
    }
}
