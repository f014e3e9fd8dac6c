//! What the provider says of itself, and whether it works here.

use rustix::process::geteuid;
use sandbar_core::{Claim, Feature, FeatureSet, Isolation, LimitReport, Probe, ProviderInfo, Result, SandboxSpec};

use super::{boot, engine::About, wall::Host};

/// The provider's name.
pub(super) const NAME: &str = "docker";

/// Features that it has with every engine that it works with.
const ALWAYS: [Feature; 12] = [
    Feature::Pty,
    Feature::User,
    Feature::Watch,
    Feature::ExposePort,
    Feature::Pause,
    Feature::StopStart,
    Feature::Stats,
    Feature::LayeredImage,
    Feature::VolumeReadOnly,
    Feature::VolumeReadWrite,
    Feature::LimitOpenFiles,
    Feature::NetworkNone,
];
/// Features that take reading the engine's layers.
const WITH_LAYERS: [Feature; 3] = [Feature::DiskCheckpoint, Feature::Restore, Feature::Fork];

/// What it takes a packet filter to decide about what leaves.
const LEAVING: [Feature; 2] = [Feature::NetworkOpen, Feature::NetworkRules];

/// The provider's claim at its best.
pub fn claim() -> Claim {
    let at_best =
        [Feature::LimitMemory, Feature::LimitCpu, Feature::LimitPids, Feature::Runtime, Feature::MemoryCheckpoint, Feature::NetworkUdp];
    Claim { provider: NAME, features: ALWAYS.into_iter().chain(WITH_LAYERS).chain(at_best).chain(LEAVING).collect() }
}

/// What it can do here. Where no engine answers, what it could do with one: making a sandbox tells what is missing.
pub(super) fn info(host: &Host) -> ProviderInfo {
    let about = host.engine().and_then(|engine| engine.about_now());
    let (features, notes) = match &about {
        Ok(about) => (features(about), notes(about)),
        Err(error) => (claim().features, vec![format!("no engine: {}", error.message())]),
    };
    ProviderInfo {
        name: NAME.to_owned(),
        isolation: Isolation::Namespaces,
        features,
        description: "a container of the Docker Engine, or of another engine with its API, with any runtime that the engine has".to_owned(),
        notes,
    }
}

fn features(about: &About) -> FeatureSet {
    let mut features = ALWAYS.to_vec();
    features.push(Feature::Runtime);
    if about.layers_are_overlay && geteuid().is_root() {
        features.extend(WITH_LAYERS);
        if about.experimental && about.runtimes.iter().any(|(name, _)| about.isolation_of(name) == Isolation::UserKernel) {
            features.push(Feature::MemoryCheckpoint);
        }
    }
    let is_user_kernel = about.isolation_of(&about.default_runtime) == Isolation::UserKernel;
    // Over a group's limit the whole kernel in user space would be ended, and with it the sandbox.
    if about.limits_memory && !is_user_kernel {
        features.push(Feature::LimitMemory);
    }
    if about.require_leaving(&about.default_runtime).is_ok() {
        features.extend(LEAVING);
        // The packet filter of a kernel in user space cannot divert datagrams.
        features.extend((!is_user_kernel).then_some(Feature::NetworkUdp));
    }
    if about.limits_cpu {
        features.push(Feature::LimitCpu);
    }
    if about.limits_pids {
        features.push(Feature::LimitPids);
    }
    features.into_iter().collect()
}

fn notes(about: &About) -> Vec<String> {
    let runtimes: Vec<String> = about
        .runtimes
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| !name.starts_with("io.containerd."))
        .map(|name| format!("{name} ({})", about.isolation_of(name)))
        .collect();
    let layers = match (about.layers_are_overlay, geteuid().is_root()) {
        (true, true) => format!("{}, read directly", about.driver),
        (true, false) => format!("{}: only root may read its layers, so there are no checkpoints", about.driver),
        (false, _) => format!("{}: its layers cannot be read, so there are no checkpoints", about.driver),
    };
    let leaving = match about.require_leaving(&about.default_runtime) {
        Ok(()) => "networks by rules".to_owned(),
        Err(error) => format!("no networks by rules: {}", error.chain()),
    };
    vec![
        format!("engine {}", about.version),
        format!("runtimes {}; default {}", runtimes.join(", "), about.default_runtime),
        about.groups.clone(),
        layers,
        leaving,
        "the sandbox's root is the engine's root: no user namespace unless the engine remaps".to_owned(),
    ]
}

/// What the runtime of a sandbox makes of it.
pub(super) fn isolation(host: &Host, spec: &SandboxSpec) -> Isolation {
    let isolation = || -> Result<Isolation> {
        let about = host.engine()?.about_now()?;
        Ok(about.isolation_of(&about.runtime(spec.runtime.as_deref())?))
    };
    isolation().unwrap_or(Isolation::Namespaces)
}

/// Asks the engine, with a deadline.
pub(super) async fn probe(host: &Host) -> Probe {
    let about = async {
        let engine = host.engine()?;
        host.agent.path()?;
        engine.about().await
    };
    let about: Result<_> = about.await;
    match about {
        Ok(about) => Probe { usable: true, verdict: notes(&about).join("; "), hint: None },
        Err(error) => Probe { usable: false, verdict: error.chain(), hint: error.hint().map(str::to_owned) },
    }
}

/// Limits of a sandbox that has no place now.
pub(super) fn limits(host: &Host, spec: &SandboxSpec) -> Vec<LimitReport> {
    host.engine().map(|engine| boot::reports(&engine, spec)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_claimed_of_an_engine_with_checkpoints_and_a_runtime_that_saves() {
        let runtime = |name: &str| (name.to_owned(), format!("/usr/bin/{name}"));
        let able =
            About { experimental: true, layers_are_overlay: true, runtimes: vec![runtime("runc"), runtime("runsc")], ..About::default() };
        let claims = |about: &About| features(about).has(Feature::MemoryCheckpoint);
        // Its layers belong to root.
        assert_eq!(claims(&able), geteuid().is_root());
        assert!(!claims(&About { experimental: false, ..able.clone() }));
        assert!(!claims(&About { layers_are_overlay: false, ..able.clone() }));
        assert!(!claims(&About { runtimes: vec![runtime("runc")], ..able.clone() }));
    }
}
