use std::path::PathBuf;

use sandbar_core::{Claim, Error, ErrorKind, Isolation, ProviderInfo};

use crate::{Distribution, find_program, vmm};

/// The provider's name.
pub(super) const NAME: &str = "qemu";
/// The monitor.
pub(super) const PROGRAM: &str = "qemu-system-x86_64";

/// The provider's claim at its best.
pub fn claim() -> Claim {
    Claim { provider: NAME, features: vmm::FEATURES.into_iter().collect() }
}

/// What it can do here.
pub(super) fn info() -> ProviderInfo {
    ProviderInfo {
        name: NAME.to_owned(),
        isolation: Isolation::Vm,
        features: vmm::FEATURES.into_iter().collect(),
        description: "a virtual machine with a kernel of its own, under QEMU: with KVM where it is usable, else emulated".to_owned(),
        notes: vec!["without a network device".to_owned(), vmm::VOLUMES.to_owned(), vmm::LIMITS.to_owned()],
    }
}

/// That it is not here.
pub(super) fn missing() -> Error {
    Error::new(ErrorKind::Unavailable, "qemu", "qemu-system-x86_64 is missing")
        .with_hint(Distribution::here().how_to_set_up(NAME, &[PROGRAM]))
}

/// Where QEMU is.
pub(super) fn program() -> Option<PathBuf> {
    find_program(PROGRAM)
}
