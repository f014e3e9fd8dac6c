use sandbar_conformance::{Account, Availability, Reach, Variant, World};
use sandbar_core::{Feature, RootSource};

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
        Ok(found) => {
            let mut subject = found.subject(variant, RootSource::empty());
            subject.reach = vec![Reach::Shell, Reach::JobControl, Reach::HostProcesses, Reach::Crash, Reach::Workspace, Reach::RealFiles];
            // Pause and this need the same: a control group.
            subject.reach.extend(subject.provider.info().features.has(Feature::Pause).then_some(Reach::NoOrphans));
            Availability::Here(Box::new(subject))
        }
    }
}
