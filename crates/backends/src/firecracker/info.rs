use sandbar_core::{Claim, Isolation, ProviderInfo};

use super::{
    FirecrackerOptions,
    engine::{self, Engine},
};
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
            jail(Engine::find(options).ok().as_ref(), engine::is_root()).to_owned(),
            "without a network device".to_owned(),
            vmm::VOLUMES.to_owned(),
            vmm::LIMITS.to_owned(),
        ],
    }
}

/// What there is around Firecracker, for its user to know where that is less than there could be.
pub(super) fn jail(engine: Option<&Engine>, is_root: bool) -> &'static str {
    if engine.is_some_and(|engine| engine.jailer.is_some()) {
        "each machine in a jail of its own, as a user of its own (jailer)"
    } else if is_root {
        "weaker: without the jailer Firecracker runs as root behind its seccomp filters alone"
    } else {
        "weaker: without root there is no jailer, and Firecracker runs as this user behind its seccomp filters alone"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_without_a_jail_is_told_as_weaker() {
        let folder = tempfile::tempdir().unwrap();
        let program = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            Some(path)
        };
        let options = |jail| FirecrackerOptions { firecracker: program("firecracker"), jailer: program("jailer"), jail };
        let told = |jail, is_root| {
            let engine = Engine::find_as(&options(jail), is_root).unwrap();
            super::jail(Some(&engine), is_root)
        };
        let (jailed, root) = (told(None, true), told(Some(false), true));
        assert!(jailed.contains("jail of its own") && !jailed.contains("weaker"), "{jailed}");
        assert!(root.starts_with("weaker: ") && root.contains("runs as root"), "{root}");
        for jail in [None, Some(false)] {
            let user = told(jail, false);
            assert!(user.starts_with("weaker: ") && user.contains("runs as this user"), "{user}");
        }
        // What `inspect` and the doctor show has it.
        let here = info(&options(Some(false))).notes;
        assert!(here[0].starts_with("weaker: "), "{here:?}");
    }
}
