use sandbar_core::{Claim, Feature, Isolation, ProviderInfo};

use super::{FirecrackerOptions, engine::Engine};

/// The provider's name.
pub(super) const NAME: &str = "firecracker";

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
pub(super) fn info(options: &FirecrackerOptions) -> ProviderInfo {
    ProviderInfo {
        name: NAME.to_owned(),
        isolation: Isolation::Vm,
        features: FEATURES.into_iter().collect(),
        description: "a microVM with a kernel of its own, under Firecracker on KVM".to_owned(),
        notes: vec![
            jail(Engine::find(options).ok().as_ref()).to_owned(),
            "without a network device; host folders are not shared".to_owned(),
            "limits of memory, processors and disk are the machine's size; finer ones are the guest kernel's".to_owned(),
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
