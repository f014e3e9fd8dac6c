//! The providers as this machine can test them.

use std::{future::Future, pin::Pin, sync::Arc};

use sandbar_conformance::{Availability, FakeProvider, Reach, Subject, Variant, World};
use sandbar_core::{Checked, RootSource};

mod dangerous_host;

pub use dangerous_host::DANGEROUS_HOST;

type Preparing<'a> = Pin<Box<dyn Future<Output = Availability> + Send + 'a>>;

/// The simulation.
pub const FAKE: Variant = Variant { name: "fake", prepare: fake };

fn fake(world: &World) -> Preparing<'_> {
    Box::pin(async { fake_subject(world) })
}

fn fake_subject(world: &World) -> Availability {
    let folder = match world.folder("fake") {
        Ok(folder) => folder,
        Err(error) => return Availability::Unavailable(format!("no folder: {error}")),
    };
    let (provider, claims): (_, Arc<[_]>) = (FakeProvider::new(), Arc::from([FakeProvider::claim()]));
    Availability::Here(Box::new(Subject {
        name: FAKE.name.to_owned(),
        provider: Arc::new(Checked::new(provider.clone(), Arc::clone(&claims))),
        claims,
        root: RootSource::empty(),
        folder,
        ids: None,
        reach: vec![Reach::OwnRoot, Reach::Crash],
        crash: Some(Box::new(move |id| provider.crash(id))),
        threads: None,
    }))
}
