use std::time::{Duration, Instant};

use sandbar_backends::ProviderOptions;
use sandbar_conformance::{Availability, Part, Reach, Subject, Variant, World};
use sandbar_runtime::image::ImageStore;

use super::{busybox, engine};
use crate::variants::{Found, Preparing, is_root};

/// The kernel's own namespaces.
pub const RUNC: Variant = Variant { name: "docker-runc", prepare: prepare_runc };
/// A kernel in user space.
pub const RUNSC: Variant = Variant { name: "docker-runsc", prepare: prepare_runsc };

/// What is neither the agent behind this kernel, which `gvisor` tests several times as fast, nor this engine's with any runtime.
const PARTICULAR: Part = Part {
    names: &[
        "provider",
        "refusal",
        "egress",
        "memory",
        "pause",
        "stop_start",
        "checkpoint",
        "restore",
        "limits",
        "stats",
        "status",
        "destroy",
    ],
    reason: "it is shown by gvisor and by docker-runc: SANDBAR_LONG=1 asks for it here as well",
};

/// How long an engine may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(60);

fn prepare_runc(world: &World) -> Preparing<'_> {
    Box::pin(look(world, RUNC.name, "runc"))
}

fn prepare_runsc(world: &World) -> Preparing<'_> {
    Box::pin(look(world, RUNSC.name, "runsc"))
}

async fn look(world: &World, variant: &str, runtime: &str) -> Availability {
    if !is_root() {
        return Availability::Unavailable("an engine of its own needs root".to_owned());
    }
    find(world, variant, runtime).await.into()
}

async fn find(world: &World, variant: &str, runtime: &str) -> Result<Subject, String> {
    let folder = world.folder(variant).map_err(|error| format!("no folder: {error}"))?;
    let (socket, noted) = engine::of_run(&folder, variant, &engine::Engine::of(runtime))?;
    // An owner is another process of the same state folder: to the engine two of them are strangers.
    let home = noted.join("state");
    let begun = Instant::now();
    let found = loop {
        let docker_host = Some(format!("unix://{}", socket.display()));
        let options = |_| ProviderOptions { docker_host, ..ProviderOptions::new(&home) };
        match Found::find_with(world, variant, "docker", options).await {
            Ok(found) => break found,
            // It makes its socket when it is ready.
            Err(_) if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(reason) => return Err(format!("{reason}; the engine said: {}", engine::last_words(&socket))),
        }
    };
    let store = ImageStore::open(&home).map_err(|error| error.chain())?;
    let root = busybox::image(&store, &folder).await?;
    let common = [Reach::Shell, Reach::Crash, Reach::NoOrphans, Reach::OwnRoot, Reach::Layers];
    let own: &[Reach] = if runtime == "runc" { &[Reach::JobControl, Reach::HostProcesses, Reach::RealFiles] } else { &[] };
    let only = (runtime == "runsc" && std::env::var_os("SANDBAR_LONG").is_none()).then_some(PARTICULAR);
    Ok(Subject {
        reach: common.iter().chain(own).copied().collect(),
        threads: Some(2),
        only,
        patience: if runtime == "runsc" { 3 } else { 1 },
        ..found.subject(variant, root)
    })
}
