use sandbar_backends::{ProviderOptions, firecracker::FirecrackerOptions, kvm};
use sandbar_conformance::{Account, Availability, Part, Subject, Variant, World};

use super::stock;
use crate::variants::{Found, Preparing, TEST_USER, is_root};

/// As root: each machine in a jail.
pub const JAILED: Variant = Variant { name: "firecracker-jailed", prepare: prepare_jailed };
/// As a plain user who may use KVM: without a jail.
pub const PLAIN_USER: Variant = Variant { name: "firecracker-plain-user", prepare: prepare_plain_user };

const SLOW: &str = "machines in an emulated machine are slow, and other walls show it: SANDBAR_LONG=1 asks for it here as well";
/// Each thing that a monitor does, and each way in.
const PARTICULAR: Part = Part {
    names: &[
        "checkpoint::a_stopped_sandbox_can_be_saved",
        "egress::a_name_is_connected_to_by_name",
        "egress::an_end_that_nobody_speaks_for_is_a_reset",
        "egress::datagrams_are_asked_for_by_name_and_keep_their_boundaries",
        "egress::memory_is_saved_without_what_is_open_or_not_at_all",
        "expose::shutting_down_one_way_leaves_the_other_open",
        "file::what_is_put_is_got",
        "limits::what_the_disk_does_in_a_second_is_bounded",
        "memory::a_failure_leaves_the_sandbox_running",
        "memory::a_process_goes_on_in_a_fork",
        "memory::a_restore_in_place_brings_processes_back",
        "memory::forks_have_identities_of_their_own",
        "pause::nothing_runs_meanwhile",
        "port::large_transfers_are_complete",
        "process::it_ends_with_its_client_when_asked",
        "pty::control_c_interrupts",
        "refusal::every_feature_is_claimed_or_refused_with_the_provider_that_has_it",
        "restore::files_are_as_they_were",
        "status::a_crashed_one_starts_again_with_its_layer",
        "stdin::it_is_binary_safe_and_complete",
        "volume::a_read_only_one_can_be_read_and_not_written",
        "volume::a_target_below_another_works",
        "volume::it_is_there_after_stop_and_start",
    ],
    reason: SLOW,
};
/// What another user, without a jail, changes of that.
const OF_A_USER: Part = Part {
    names: &["memory::a_process_goes_on_in_a_fork", "stop_start::the_writable_layer_is_kept", "volume::a_writable_one_is_the_hosts_folder"],
    reason: SLOW,
};

fn prepare_jailed(world: &World) -> Preparing<'_> {
    Box::pin(async {
        if !is_root() {
            return Availability::Unavailable("these tests do not run as root".to_owned());
        }
        look(world, JAILED.name, PARTICULAR).await.unwrap_or_else(Availability::Unavailable)
    })
}

fn prepare_plain_user(world: &World) -> Preparing<'_> {
    Box::pin(async {
        if is_root() {
            let user = Account::named(TEST_USER).and_then(|user| Some(Account { gid: Account::group("kvm")?, ..user }));
            let missing = || Availability::Unavailable(format!("there is no user {TEST_USER}, or no group kvm"));
            return user.map_or_else(missing, Availability::As);
        }
        look(world, PLAIN_USER.name, OF_A_USER).await.unwrap_or_else(Availability::Unavailable)
    })
}

async fn look(world: &World, variant: &str, part: Part) -> Result<Availability, String> {
    // Before anything is made for it.
    let kvm = kvm::probe();
    if !kvm.is_usable() {
        return Err(kvm.to_string());
    }
    let root = stock::root(world, variant).await?;
    let firecracker =
        FirecrackerOptions { firecracker: stock::program("firecracker"), jail: Some(is_root()), ..FirecrackerOptions::default() };
    let options = |home| ProviderOptions { firecracker, ..ProviderOptions::new(home) };
    let found = Found::find_with(world, variant, "firecracker", options).await?;
    Ok(Availability::Here(Box::new(Subject {
        memory: Some(64 << 20),
        patience: 8,
        only: std::env::var_os("SANDBAR_LONG").is_none().then_some(part),
        ..stock::subject(found.subject(variant, root), "firecracker")
    })))
}
