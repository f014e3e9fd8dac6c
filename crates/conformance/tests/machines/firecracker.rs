use sandbar_backends::kvm;
use sandbar_conformance::{Account, Availability, Subject, Variant, World};

use super::stock;
use crate::variants::{Found, Preparing, TEST_USER, is_root};

/// As root: each machine in a jail.
pub const JAILED: Variant = Variant { name: "firecracker-jailed", prepare: prepare_jailed };
/// As a plain user who may use KVM: without a jail.
pub const PLAIN_USER: Variant = Variant { name: "firecracker-plain-user", prepare: prepare_plain_user };

fn prepare_jailed(world: &World) -> Preparing<'_> {
    Box::pin(async {
        if !is_root() {
            return Availability::Unavailable("these tests do not run as root".to_owned());
        }
        look(world, JAILED.name).await.unwrap_or_else(Availability::Unavailable)
    })
}

fn prepare_plain_user(world: &World) -> Preparing<'_> {
    Box::pin(async {
        if is_root() {
            let user = Account::named(TEST_USER).and_then(|user| Some(Account { gid: Account::group("kvm")?, ..user }));
            let missing = || Availability::Unavailable(format!("there is no user {TEST_USER}, or no group kvm"));
            return user.map_or_else(missing, Availability::As);
        }
        look(world, PLAIN_USER.name).await.unwrap_or_else(Availability::Unavailable)
    })
}

async fn look(world: &World, variant: &str) -> Result<Availability, String> {
    // Before anything is made for it.
    let kvm = kvm::probe();
    if !kvm.is_usable() {
        return Err(kvm.to_string());
    }
    let root = stock::root(world, variant).await?;
    let options = |home| stock::firecracker(home, is_root());
    let found = Found::find_with(world, variant, "firecracker", options).await?;
    Ok(Availability::Here(Box::new(Subject {
        memory: Some(64 << 20),
        patience: 8,
        ..stock::subject(found.subject(variant, root), "firecracker")
    })))
}
