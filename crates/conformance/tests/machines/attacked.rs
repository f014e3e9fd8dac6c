//! Virtual machines that are attacked from inside.

use sandbar_backends::{
    ProviderOptions, kvm,
    qemu::{Accelerator, QemuOptions},
};
use sandbar_conformance::{Availability, Part, Subject, Variant, World};

use super::stock;
use crate::variants::{Found, Preparing, is_root};

/// A machine under QEMU, emulated.
pub const TCG: Variant = Variant { name: "qemu-tcg", prepare: prepare_tcg };
/// One under Firecracker, in a jail.
pub const JAILED: Variant = Variant { name: "firecracker-jailed", prepare: prepare_jailed };

/// What is an attack behind such a wall. The kernel is the sandbox's own: what others refuse of mounts, devices, namespaces, modules and other processes is
/// its own to allow here, and gets nobody any further.
const ATTACKS: Part = Part {
    names: &[
        "agent::its_program_on_the_host_is_not_changed",
        "files::a_file_of_the_host_is_not_read",
        "layers::links_are_not_followed_when_it_is_saved_weighed_and_removed",
        "machine",
        "network::an_open_network_brings_none_of_them_nearer",
        "processes::a_signal_to_everybody_stays_inside",
        "resources::a_flood_of_files_stays_inside",
        "resources::a_flood_of_memory_stays_inside",
        "resources::a_fork_bomb_stays_inside",
        "volumes",
    ],
    reason: "what it attempts is the machine's own to allow, or takes long: SANDBAR_LONG=1 asks for that",
};
/// With what is the same code of the host for all walls, at the pace of an emulated processor.
const ALL_ATTACKS: Part = Part {
    names: &[
        "agent::environments_hold_nothing_of_the_host",
        "agent::its_program_on_the_host_is_not_changed",
        "files",
        "identity",
        "layers::a_hostile_layer_mounts_nothing_outside",
        "layers::a_link_in_the_place_of_a_volumes_target_leads_nowhere",
        "layers::links_are_not_followed_when_it_is_saved_weighed_and_removed",
        "machine",
        "mounts::none_of_its_mounts_reaches_the_host",
        "network::an_open_network_brings_none_of_them_nearer",
        "processes::a_signal_to_everybody_stays_inside",
        "races::file_calls_lose_no_race_against_links",
        "resources::a_flood_of_files_stays_inside",
        "resources::a_flood_of_memory_stays_inside",
        "resources::a_fork_bomb_stays_inside",
        "volumes",
    ],
    reason: "what it attempts is the machine's own to allow",
};

fn prepare_tcg(world: &World) -> Preparing<'_> {
    Box::pin(async {
        let qemu = QemuOptions { accelerator: Some(Accelerator::Tcg) };
        let options = |home| ProviderOptions { qemu, ..ProviderOptions::new(home) };
        look(world, TCG.name, "qemu", options, 4).await.unwrap_or_else(Availability::Unavailable)
    })
}

fn prepare_jailed(world: &World) -> Preparing<'_> {
    Box::pin(async {
        if !is_root() {
            return Availability::Unavailable("these tests do not run as root".to_owned());
        }
        let kvm = kvm::probe();
        if !kvm.is_usable() {
            return Availability::Unavailable(kvm.to_string());
        }
        let options = |home| stock::firecracker(home, true);
        look(world, JAILED.name, "firecracker", options, 8).await.unwrap_or_else(Availability::Unavailable)
    })
}

async fn look(
    world: &World,
    variant: &str,
    monitor: &'static str,
    options: impl FnOnce(std::path::PathBuf) -> ProviderOptions,
    patience: u32,
) -> Result<Availability, String> {
    let root = stock::root(world, variant).await?;
    let found = Found::find_with(world, variant, monitor, options).await?;
    let subject = stock::subject(found.subject(variant, root), monitor);
    let part = if std::env::var_os("SANDBAR_LONG").is_some() { ALL_ATTACKS } else { ATTACKS };
    Ok(Availability::Here(Box::new(Subject { patience, only: Some(part), ..subject })))
}
