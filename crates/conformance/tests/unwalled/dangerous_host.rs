use sandbar_conformance::{Account, Availability, Reach, Subject, Variant, World};
use sandbar_core::RootSource;

use crate::variants::{Found, Preparing, is_root};

/// No wall, as whoever runs the tests.
pub const ORDINARY: Variant = Variant { name: "dangerous-host", prepare };
/// No wall, as a user without any rights.
pub const PLAIN_USER: Variant = Variant { name: "dangerous-host-plain", prepare: prepare_plain };

fn prepare(world: &World) -> Preparing<'_> {
    Box::pin(look(world, ORDINARY.name))
}

fn prepare_plain(world: &World) -> Preparing<'_> {
    Box::pin(async { if is_root() { Availability::As(Account::nobody()) } else { look(world, PLAIN_USER.name).await } })
}

async fn look(world: &World, variant: &str) -> Availability {
    match Found::find(world, variant, "dangerous-host").await {
        Err(reason) => Availability::Unavailable(reason),
        Ok(found) => Availability::Here(Box::new(Subject {
            reach: vec![Reach::Shell, Reach::HostProcesses, Reach::Crash, Reach::Workspace, Reach::RealFiles],
            ..found.subject(variant, RootSource::empty())
        })),
    }
}
