use std::{
    fs,
    sync::{Mutex, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process};
use sandbar_backends::{
    ProviderOptions, Registry,
    remote::{Contexts, Place},
};
use sandbar_conformance::{Reach, Subject, Variant, World};
use sandbar_core::{Claim, RootSource, SandboxId};

use super::server::Server;
use crate::variants::{Preparing, is_root};

/// Containers of a server on loopback.
pub const CONTAINER: Variant = Variant { name: "remote-http", prepare };

/// Those of this run, which end with it.
static SERVERS: Mutex<Vec<Server>> = Mutex::new(Vec::new());

fn prepare(world: &World) -> Preparing<'_> {
    Box::pin(async { find(world).await.into() })
}

async fn find(world: &World) -> Result<Subject, String> {
    if !is_root() {
        return Err("these tests do not run as root".to_owned());
    }
    let folder = |name: &str| world.folder(name).map_err(|error| format!("no folder: {error}"));
    let (folder, here, there) = (folder("remote-http")?, folder("remote-http/here")?, folder("remote-http/there")?);
    let server = Server::start(&there)?;
    let url = format!("{}/container", server.url);
    let place = Place { url: url.clone(), key: Some(server.token.clone()), authority: None };
    Contexts::of(&here).add("there", place).map_err(|error| error.chain())?;
    SERVERS.lock().unwrap_or_else(PoisonError::into_inner).push(server);
    subject("remote-http", &url, folder, &Registry::new(&ProviderOptions::new(here))).await
}

/// Ends the agent of a sandbox of `container`: the other host is this one, and of those in the sandbox's control groups it is the first of its PID namespace.
fn end_agent(id: &SandboxId) -> bool {
    let says = |pid: i32, file: &str, is_so: &dyn Fn(&str) -> bool| {
        fs::read_to_string(format!("/proc/{pid}/{file}")).is_ok_and(|text| is_so(&text))
    };
    let is_it = |pid: &i32| {
        let is_first = |status: &str| status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"));
        says(*pid, "cgroup", &|groups| groups.contains(id.as_str())) && says(*pid, "status", &is_first)
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(is_it).and_then(Pid::from_raw).is_some_and(|agent| kill_process(agent, Signal::KILL).is_ok())
}

/// The provider at an address, as it is tested.
pub async fn subject(variant: &str, url: &str, folder: std::path::PathBuf, registry: &Registry) -> Result<Subject, String> {
    let provider = registry.get(url).map_err(|error| error.chain())?;
    let probe = provider.probe().await;
    if !probe.usable {
        return Err(probe.verdict);
    }
    // What it claims at its best is what the other host has.
    let info = provider.info();
    let claim = Claim { provider: Box::leak(info.name.into_boxed_str()), features: info.features };
    Ok(Subject {
        name: variant.to_owned(),
        provider,
        claims: registry.claims().iter().cloned().chain([claim]).collect(),
        root: RootSource::elsewhere(None),
        folder,
        ids: None,
        reach: vec![Reach::Shell, Reach::JobControl, Reach::OwnRoot, Reach::RealFiles, Reach::Layers, Reach::Elsewhere, Reach::Crash],
        crash: Some(Box::new(end_agent)),
        only: None,
        memory: None,
        patience: 1,
        threads: Some(2),
    })
}
