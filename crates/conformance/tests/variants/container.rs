use sandbar_conformance::{Account, Availability, Reach, Subject, Variant, World};

use super::{Found, Preparing, TEST_USER, can_map, is_root};

/// Each sandbox with host ids of its own.
pub const ROOT: Variant = Variant { name: "container-root", prepare: prepare_root };
/// A plain user without subordinate ids.
pub const ROOTLESS: Variant = Variant { name: "container-rootless", prepare: prepare_rootless };
/// A plain user with subordinate ids.
pub const ROOTLESS_RANGES: Variant = Variant { name: "container-rootless-ranges", prepare: prepare_ranges };

fn prepare_root(world: &World) -> Preparing<'_> {
    Box::pin(async {
        if !is_root() {
            return Availability::Unavailable("these tests do not run as root".to_owned());
        }
        look(world, ROOT.name, &[Reach::LargeFiles]).await
    })
}

fn prepare_rootless(world: &World) -> Preparing<'_> {
    Box::pin(async {
        if is_root() {
            return Availability::As(Account::nobody());
        }
        if can_map(&Account::current()) {
            return Availability::Unavailable("this user has subordinate ids: see container-rootless-ranges".to_owned());
        }
        look(world, ROOTLESS.name, &[]).await
    })
}

fn prepare_ranges(world: &World) -> Preparing<'_> {
    Box::pin(async {
        let account = if is_root() { Account::named(TEST_USER) } else { Some(Account::current()) };
        let Some(account) = account else {
            return Availability::Unavailable(format!("there is no user {TEST_USER}: run `cargo xtask setup` as root"));
        };
        if !can_map(&account) {
            let reason = format!("{} has no ranges in /etc/subuid and /etc/subgid, or there is no newuidmap", account.name);
            return Availability::Unavailable(reason);
        }
        if is_root() { Availability::As(account) } else { look(world, ROOTLESS_RANGES.name, &[]).await }
    })
}

async fn look(world: &World, variant: &str, more: &[Reach]) -> Availability {
    let found = match Found::find(world, variant, "container").await {
        Ok(found) => found,
        Err(reason) => return Availability::Unavailable(reason),
    };
    let root = match found.host_image().await {
        Ok(root) => root,
        Err(reason) => return Availability::Unavailable(reason),
    };
    let common = [
        Reach::Shell,
        Reach::JobControl,
        Reach::HostProcesses,
        Reach::SharedKernel,
        Reach::Crash,
        Reach::NoOrphans,
        Reach::OwnRoot,
        Reach::RealFiles,
        Reach::Layers,
    ];
    Availability::Here(Box::new(Subject {
        reach: common.into_iter().chain(more.iter().copied()).collect(),
        threads: Some(2),
        ..found.subject(variant, root)
    }))
}
