use sandbar_backends::{
    ProviderOptions, kvm,
    qemu::{Accelerator, QemuOptions},
};
use sandbar_conformance::{Account, Availability, Part, Subject, Variant, World};

use super::stock;
use crate::variants::{Found, Preparing, TEST_USER, is_root};

/// A virtual machine under QEMU, emulated: what works on every machine.
pub const TCG: Variant = Variant { name: "qemu-tcg", prepare: prepare_tcg };
/// The same, of a plain user: QEMU is confined by Landlock alone.
pub const PLAIN_USER: Variant = Variant { name: "qemu-plain-user", prepare: prepare_plain_user };
/// The same, with KVM.
pub const KVM: Variant = Variant { name: "qemu-kvm", prepare: prepare_kvm };

/// What another user, and the other half of the confinement, change of what `qemu-tcg` shows.
const OF_A_USER: Part = Part {
    names: &["memory::a_process_goes_on_in_a_fork", "stop_start::the_writable_layer_is_kept", "volume::a_writable_one_is_the_hosts_folder"],
    reason: "emulation makes it slow, and `qemu-tcg` shows it: SANDBAR_LONG=1 asks for it here as well",
};

/// What the accelerator changes of that.
const OF_KVM: Part = Part {
    names: &[
        "memory::a_process_goes_on_in_a_fork",
        "memory::a_restore_in_place_brings_processes_back",
        "memory::forks_have_identities_of_their_own",
        "pause::nothing_runs_meanwhile",
        "restore::files_are_as_they_were",
        "stop_start::the_writable_layer_is_kept",
        "volume::a_target_below_another_works",
    ],
    reason: "machines in an emulated machine are slow, and `qemu-tcg` shows it: SANDBAR_LONG=1 asks for it here as well",
};

fn prepare_tcg(world: &World) -> Preparing<'_> {
    Box::pin(async { look(world, TCG.name, Accelerator::Tcg, None).await.unwrap_or_else(Availability::Unavailable) })
}

fn prepare_plain_user(world: &World) -> Preparing<'_> {
    Box::pin(async {
        if is_root() {
            let missing = || Availability::Unavailable(format!("there is no user {TEST_USER}: run `cargo xtask setup` as root"));
            return Account::named(TEST_USER).map_or_else(missing, Availability::As);
        }
        look(world, PLAIN_USER.name, Accelerator::Tcg, Some(OF_A_USER)).await.unwrap_or_else(Availability::Unavailable)
    })
}

fn prepare_kvm(world: &World) -> Preparing<'_> {
    Box::pin(async {
        // Before anything is made for it.
        let kvm = kvm::probe();
        if !kvm.is_usable() {
            return Availability::Unavailable(kvm.to_string());
        }
        look(world, KVM.name, Accelerator::Kvm, Some(OF_KVM)).await.unwrap_or_else(Availability::Unavailable)
    })
}

async fn look(world: &World, variant: &str, accelerator: Accelerator, part: Option<Part>) -> Result<Availability, String> {
    let root = stock::root(world, variant).await?;
    let options = |home| ProviderOptions { qemu: QemuOptions { accelerator: Some(accelerator) }, ..ProviderOptions::new(home) };
    let found = Found::find_with(world, variant, "qemu", options).await?;
    Ok(Availability::Here(Box::new(Subject {
        patience: if accelerator == Accelerator::Kvm { 8 } else { 4 },
        only: part.filter(|_| std::env::var_os("SANDBAR_LONG").is_none()),
        ..stock::subject(found.subject(variant, root), "qemu")
    })))
}
