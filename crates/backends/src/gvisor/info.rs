//! What the provider says of itself.

use sandbar_core::{Claim, Feature, FeatureSet, Isolation, ProviderInfo};

use super::engine::Engine;
use crate::host::{
    cgroup::{Controller, Hierarchies},
    disk,
    ids::{Ids, is_root},
    kernel,
};

/// The provider's name.
pub(super) const NAME: &str = "gvisor";

/// Features that it has on every machine where it works at all.
const ALWAYS: [Feature; 19] = [
    Feature::Pty,
    Feature::Watch,
    Feature::ExposePort,
    Feature::Pause,
    Feature::StopStart,
    Feature::DiskCheckpoint,
    Feature::MemoryCheckpoint,
    Feature::Restore,
    Feature::Fork,
    Feature::Stats,
    Feature::HostImage,
    Feature::LayeredImage,
    Feature::VolumeReadOnly,
    Feature::VolumeReadWrite,
    Feature::LimitPids,
    Feature::LimitOpenFiles,
    Feature::NetworkNone,
    Feature::NetworkOpen,
    Feature::NetworkRules,
];

/// The provider's claim at its best.
pub fn claim() -> Claim {
    let at_best = [Feature::User, Feature::LimitMemory, Feature::LimitCpu, Feature::LimitDisk];
    Claim { provider: NAME, features: ALWAYS.into_iter().chain(at_best).collect() }
}

/// What it can do here.
pub(super) fn info(engine: Option<&Engine>) -> ProviderInfo {
    let groups = Hierarchies::of_host();
    let held = |controller: Controller, feature: Feature| groups.holder(controller).map(|_| feature);
    let mut features: Vec<Feature> = ALWAYS.to_vec();
    // With one id there is nobody else whose files could be.
    if is_root() || Ids::of_sandbox(None).is_ok_and(|ids| ids.count() > 1) {
        features.push(Feature::User);
    }
    features.extend(held(Controller::Memory, Feature::LimitMemory));
    features.extend(held(Controller::Cpu, Feature::LimitCpu));
    if disk::is_available() {
        features.push(Feature::LimitDisk);
    }
    let runsc = match engine {
        Some(engine) => format!("{}, platform {}", engine.path.display(), engine.platform.name()),
        None => "no runsc".to_owned(),
    };
    ProviderInfo {
        name: NAME.to_owned(),
        isolation: Isolation::UserKernel,
        features: features.into_iter().collect::<FeatureSet>(),
        description: "gVisor: a kernel in user space answers the sandbox's system calls, without a daemon".to_owned(),
        notes: vec![runsc, mode(), groups.describe(), kernel::describe()],
    }
}

fn mode() -> String {
    if is_root() {
        return "root: each sandbox has host ids of its own".to_owned();
    }
    match Ids::of_sandbox(None) {
        Ok(ids) if ids.count() > 1 => format!("rootless, {} ids", ids.count()),
        _ => "rootless, one id: files of all users inside would belong to one (no ranges in /etc/subuid, or no newuidmap)".to_owned(),
    }
}
