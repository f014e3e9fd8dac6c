//! Programs that try to leave a sandbox, and what the host must not show or suffer meanwhile. The programs are the guest's
//! (`guest/attack/`); the cases here bring what is to be stolen, and look at the host afterwards.

mod agent;
mod canary;
mod devices;
mod files;
mod identity;
mod kernel;
mod layers;
mod machine;
mod mounts;
mod namespaces;
mod network;
mod privileges;
mod processes;
mod races;
mod resources;
mod volumes;

use std::sync::LazyLock;

use crate::Case;

/// Every case of the suite; those that must run alone come last.
pub fn all() -> &'static [Case] {
    static ALL: LazyLock<Vec<Case>> = LazyLock::new(|| {
        let tables = [
            files::CASES,
            mounts::CASES,
            processes::CASES,
            agent::CASES,
            devices::CASES,
            kernel::CASES,
            namespaces::CASES,
            network::CASES,
            privileges::CASES,
            identity::CASES,
            layers::CASES,
            machine::CASES,
            races::CASES,
            volumes::CASES,
            resources::CASES,
        ];
        let mut all: Vec<Case> = tables.into_iter().flatten().copied().collect();
        all.sort_by_key(|case| case.alone);
        all
    });
    &ALL
}
