use std::sync::Arc;

use sandbar_conformance::{Availability, Claims, FakeProvider, Reach, Subject, Variant, World};
use sandbar_core::{Checked, RootSource};

use crate::variants::Preparing;

/// The simulation.
pub const FAKE: Variant = Variant { name: "fake", prepare };

fn prepare(world: &World) -> Preparing<'_> {
    Box::pin(async { look(world) })
}

fn look(world: &World) -> Availability {
    let folder = match world.folder(FAKE.name) {
        Ok(folder) => folder,
        Err(error) => return Availability::Unavailable(format!("no folder: {error}")),
    };
    // A real provider's claims beside its own, so that its refusals have somebody to name.
    let (provider, claims): (_, Claims) = (FakeProvider::new(), Arc::from([FakeProvider::claim(), sandbar_backends::container::claim()]));
    Availability::Here(Box::new(Subject {
        name: FAKE.name.to_owned(),
        provider: Arc::new(Checked::new(provider.clone(), Arc::clone(&claims))),
        claims,
        root: RootSource::empty(),
        folder,
        ids: None,
        reach: vec![Reach::OwnRoot, Reach::Crash],
        crash: Some(Box::new(move |id| provider.crash(id))),
        only: None,
        memory: None,
        patience: 1,
        threads: None,
    }))
}
