use std::path::PathBuf;

use sandbar_core::{Claim, Error, ErrorKind, Feature, Isolation, ProviderInfo};

use crate::vmm::find_program;

/// The provider's name.
pub(super) const NAME: &str = "qemu";
const PROGRAM: &str = "qemu-system-x86_64";

/// What it has wherever it works.
const FEATURES: [Feature; 18] = [
    Feature::Pty,
    Feature::User,
    Feature::Watch,
    Feature::ExposePort,
    Feature::Pause,
    Feature::StopStart,
    Feature::DiskCheckpoint,
    Feature::MemoryCheckpoint,
    Feature::Restore,
    Feature::Fork,
    Feature::Stats,
    Feature::LayeredImage,
    Feature::LimitMemory,
    Feature::LimitCpu,
    Feature::LimitPids,
    Feature::LimitDisk,
    Feature::LimitOpenFiles,
    Feature::NetworkNone,
];

/// The provider's claim at its best.
pub fn claim() -> Claim {
    Claim { provider: NAME, features: FEATURES.into_iter().collect() }
}

/// What it can do here.
pub(super) fn info() -> ProviderInfo {
    ProviderInfo {
        name: NAME.to_owned(),
        isolation: Isolation::Vm,
        features: FEATURES.into_iter().collect(),
        description: "a virtual machine with a kernel of its own, under QEMU: with KVM where it is usable, else emulated".to_owned(),
        notes: vec![
            "without a network device; host folders are not shared".to_owned(),
            "limits of memory, processors and disk are the machine's size; finer ones are the guest kernel's".to_owned(),
        ],
    }
}

/// That it is not here.
pub(super) fn missing() -> Error {
    Error::new(ErrorKind::Unavailable, "qemu", "qemu-system-x86_64 is missing").with_hint("sandbar setup qemu")
}

/// Where QEMU is.
pub(super) fn program() -> Option<PathBuf> {
    find_program(PROGRAM)
}
