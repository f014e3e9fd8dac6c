//! What the provider says of itself.

use sandbar_core::{Claim, Feature, FeatureSet, Isolation, ProviderInfo};

use super::landlock;
use crate::host::{
    cgroup::{Controller, Hierarchies},
    disk,
    ids::{Ids, is_root},
    kernel,
};

/// The provider's name.
pub(super) const NAME: &str = "container";

/// Features that it has on every machine where it works at all.
const ALWAYS: [Feature; 14] = [
    Feature::Pty,
    Feature::Watch,
    Feature::ExposePort,
    Feature::StopStart,
    Feature::DiskCheckpoint,
    Feature::Restore,
    Feature::Fork,
    Feature::Stats,
    Feature::HostImage,
    Feature::LayeredImage,
    Feature::VolumeReadOnly,
    Feature::VolumeReadWrite,
    Feature::LimitOpenFiles,
    Feature::NetworkNone,
];
/// What it takes a packet filter to decide about what leaves.
const LEAVING: [Feature; 3] = [Feature::NetworkOpen, Feature::NetworkRules, Feature::NetworkUdp];

/// The provider's claim at its best.
pub fn claim() -> Claim {
    let at_best = [Feature::User, Feature::Pause, Feature::LimitMemory, Feature::LimitCpu, Feature::LimitPids, Feature::LimitDisk];
    Claim { provider: NAME, features: ALWAYS.into_iter().chain(at_best).chain(LEAVING).collect() }
}

/// What it can do here.
pub(super) fn info() -> ProviderInfo {
    let groups = Hierarchies::of_host();
    let held = |controller: Controller, feature: Feature| groups.holder(controller).map(|_| feature);
    let mut features: Vec<Feature> = ALWAYS.to_vec();
    if kernel::filters_packets() {
        features.extend(LEAVING);
    }
    // With one id there is nobody else to be.
    if is_root() || Ids::of_sandbox(None).is_ok_and(|ids| ids.count() > 1) {
        features.push(Feature::User);
    }
    if groups.can_freeze() {
        features.push(Feature::Pause);
    }
    features.extend(held(Controller::Memory, Feature::LimitMemory));
    features.extend(held(Controller::Cpu, Feature::LimitCpu));
    if groups.holder(Controller::Pids).is_some() || kernel::counts_processes_by_namespace() {
        features.push(Feature::LimitPids);
    }
    if disk::is_available() {
        features.push(Feature::LimitDisk);
    }
    ProviderInfo {
        name: NAME.to_owned(),
        isolation: Isolation::Namespaces,
        features: features.into_iter().collect::<FeatureSet>(),
        description: "namespaces, seccomp, Landlock and control groups of this host's kernel, without a daemon".to_owned(),
        notes: vec![mode(), groups.describe(), landlock::describe(), kernel::describe()],
    }
}

fn mode() -> String {
    if is_root() {
        return "root: each sandbox has host ids of its own".to_owned();
    }
    match Ids::of_sandbox(None) {
        Ok(ids) if ids.count() > 1 => format!("rootless, {} ids", ids.count()),
        _ => "rootless, one id: everything inside belongs to one user (no ranges in /etc/subuid, or no newuidmap)".to_owned(),
    }
}
