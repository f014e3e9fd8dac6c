use std::path::PathBuf;

use sandbar_core::{Claim, Feature, Isolation, ProviderInfo};

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
pub(super) fn info() -> ProviderInfo {
    let jail = if is_jailed() {
        "each machine in a jail of its own, as a user of its own (jailer)"
    } else if rustix::process::geteuid().is_root() {
        "weaker: without the jailer, which is not installed, Firecracker runs as root behind its seccomp filters alone"
    } else {
        "weaker: without root there is no jailer, and Firecracker runs as this user behind its seccomp filters alone"
    };
    ProviderInfo {
        name: NAME.to_owned(),
        isolation: Isolation::Vm,
        features: FEATURES.into_iter().collect(),
        description: "a microVM with a kernel of its own, under Firecracker".to_owned(),
        notes: vec![
            jail.to_owned(),
            "without a network device; host folders are not shared".to_owned(),
            "limits of memory, processors and disk are the machine's size; finer ones are the guest kernel's".to_owned(),
        ],
    }
}

/// Whether machines are made in jails here.
pub(super) fn is_jailed() -> bool {
    rustix::process::geteuid().is_root() && program("jailer").is_some()
}

/// Where a program is.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(name)).find(|path| path.is_absolute() && path.is_file())
}
