use sandbar_backends::{ProviderOptions, Registry};
use sandbar_conformance::{Availability, Reach, Subject, Variant, World};
use sandbar_core::RootSource;

/// No wall.
pub const DANGEROUS_HOST: Variant = Variant { name: "dangerous-host", prepare };

fn prepare(world: &World) -> super::Preparing<'_> {
    Box::pin(look(world))
}

async fn look(world: &World) -> Availability {
    let (folder, home) = match (world.folder("dangerous-host"), world.folder("dangerous-host/home")) {
        (Ok(folder), Ok(home)) => (folder, home),
        (Err(error), _) | (_, Err(error)) => return Availability::Unavailable(format!("no folder: {error}")),
    };
    let registry = Registry::new(&ProviderOptions { home });
    let Ok(provider) = registry.get("dangerous-host") else {
        return Availability::Unavailable("this build has no dangerous-host".to_owned());
    };
    let probe = provider.probe().await;
    if !probe.usable {
        return Availability::Unavailable(probe.verdict);
    }
    Availability::Here(Box::new(Subject {
        name: DANGEROUS_HOST.name.to_owned(),
        provider: provider.clone(),
        claims: registry.claims().clone(),
        root: RootSource::empty(),
        folder,
        ids: None,
        reach: vec![Reach::Shell, Reach::HostProcesses, Reach::Crash, Reach::Workspace, Reach::RealFiles],
        crash: None,
        threads: None,
    }))
}
