use sandbar_core::{Claim, Isolation, ProviderInfo};

use super::{FirecrackerOptions, engine::Engine};
use crate::vmm;

/// The provider's name.
pub(super) const NAME: &str = "firecracker";

/// The provider's claim at its best.
pub fn claim() -> Claim {
    Claim { provider: NAME, features: vmm::FEATURES.into_iter().collect() }
}

/// What it can do here.
pub(super) fn info(options: &FirecrackerOptions) -> ProviderInfo {
    ProviderInfo {
        name: NAME.to_owned(),
        isolation: Isolation::Vm,
        features: vmm::FEATURES.into_iter().collect(),
        description: "a microVM with a kernel of its own, under Firecracker on KVM".to_owned(),
        notes: vec![
            jail(Engine::find(options).ok().as_ref()).to_owned(),
            "without a network device".to_owned(),
            vmm::VOLUMES.to_owned(),
            vmm::LIMITS.to_owned(),
        ],
    }
}

/// What there is around Firecracker.
pub(super) fn jail(engine: Option<&Engine>) -> &'static str {
    if engine.is_some_and(|engine| engine.jailer.is_some()) {
        "each machine in a jail of its own, as a user of its own (jailer)"
    } else if rustix::process::geteuid().is_root() {
        "weaker: without the jailer Firecracker runs as root behind its seccomp filters alone"
    } else {
        "weaker: without root there is no jailer, and Firecracker runs as this user behind its seccomp filters alone"
    }
}
