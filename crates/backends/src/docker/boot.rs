//! Bringing up a sandbox: everything around the engine's container.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use bollard::query_parameters::CreateContainerOptions;
use prost::Message;
use sandbar_core::{Context, Error, ErrorKind, Isolation, Journal, Lifetime, LimitReport, Result, SandboxSpec};
use sandbar_protocol::AgentConfig;

use super::{
    container::{CONFIG, Outline, RUN, inside},
    engine::{About, Engine, SLOW},
    error::OPERATION,
    image::{self, blocking},
    limits,
    memory::{self, Bound},
    object::{self, Marker},
    owner::Home,
    place::{Place, is_of_container},
    wall::Host,
};
use crate::{
    host::capabilities,
    machine::{Boot, Facts, Memory, config::agent_config, process::HostProcess},
};

/// When the machine runs out of memory, a sandbox's commands go before the host's processes, and before their own agent.
const OOM_SCORE: i32 = 500;
/// What a runtime with a layer of its own leaves in the engine's.
const OWN_LAYER: &str = ".gvisor.filestore.";

/// The names of the steps at which a boot calls [`Journal::step`], in their order.
pub const STEPS: [&str; 3] = ["docker.intended", "docker.created", "docker.started"];

impl Host {
    /// Makes and starts a container, or starts the one that an earlier boot has made: the writable layer is in it.
    pub(super) async fn boot(&self, boot: Boot<'_>) -> Result<Place> {
        match Marker::read(boot.folder)? {
            Some(marker) => self.boot_again(&marker, boot).await,
            None => self.boot_first(boot, None).await,
        }
    }

    /// Makes a container that goes on from saved memory.
    pub(super) async fn load(&self, boot: Boot<'_>, memory: Memory<'_>) -> Result<Place> {
        self.boot_first(boot, Some(memory)).await
    }

    async fn boot_first(&self, boot: Boot<'_>, memory: Option<Memory<'_>>) -> Result<Place> {
        let Boot { id, spec, root, folder, generation, lifetime, journal, .. } = boot;
        let engine = self.engine()?;
        require_here(&engine)?;
        let about = engine.about().await?;
        let runtime = about.runtime(spec.runtime.as_deref())?;
        let isolation = about.isolation_of(&runtime);
        refuse_network(spec, &about, &runtime)?;
        if let Some(memory) = memory {
            let saved: Bound = serde_json::from_value(memory.record.clone())
                .map_err(|error| Error::new(ErrorKind::Corrupt, "restore", "the record of the memory cannot be read").with_source(error))?;
            let (about, runtime) = (Arc::clone(&about), runtime.clone());
            blocking(move || saved.require(&Bound::here(&about, &runtime)?)).await?;
        }
        let home = Home::open(&self.home)?;
        let hostname = spec.hostname.as_deref().unwrap_or(id.as_str());
        let place = Place {
            engine: engine.endpoint().to_string(),
            name: format!("sandbar-{id}-g{generation}"),
            process: None,
            folder: folder.to_owned(),
            isolation,
            limits: limits::reports(&spec.limits, isolation, &about.groups),
        };
        prepare(folder, config(&boot, isolation))?;
        let marker = Marker { engine: place.engine.clone(), name: place.name.clone() };
        let image = image::ensure(&engine, &home, root).await?;
        let labels = home.labels(id, generation);
        let agent = self.agent.path()?;
        let outline = Outline { spec, hostname, image: &image, runtime: &runtime, isolation, lifetime, labels, agent, folder };
        let request = outline.request()?;
        journal.intend(&marker.resource())?;
        let made = async {
            marker.write(folder)?;
            journal.step(STEPS[0]);
            let options = CreateContainerOptions { name: Some(marker.name.clone()), ..CreateContainerOptions::default() };
            engine.ask("make the container", SLOW, |client| async move { client.create_container(Some(options), request).await }).await?;
            journal.step(STEPS[1]);
            self.launch(&engine, place, lifetime, journal, memory.map(|memory| memory.folder)).await
        };
        match made.await {
            Ok(place) => Ok(place),
            Err(error) => {
                let undone = async {
                    object::remove(&engine, &home, &marker.name).await?;
                    Marker::remove(folder);
                    journal.forget(&marker.resource())
                };
                if let Err(left) = undone.await {
                    // The ledger has it.
                    tracing::warn!(error = %left.chain(), "cannot remove a container that did not start");
                }
                Err(error)
            }
        }
    }

    async fn boot_again(&self, marker: &Marker, boot: Boot<'_>) -> Result<Place> {
        let Boot { spec, folder, lifetime, journal, .. } = boot;
        let engine = self.engine_at(&marker.engine)?;
        let about = engine.about().await?;
        let found = object::inspect(&engine, &marker.name).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, OPERATION, "the engine has the sandbox's container no more, and with it its writable layer")
                .with("container", &marker.name)
                .with_hint("somebody removed it with the engine's own commands; sandbar rm -f removes the rest")
        })?;
        // What an earlier boot that was cut short has left running.
        object::end(&engine, &marker.name).await?;
        let runtime = found.host_config.and_then(|config| config.runtime).unwrap_or_else(|| about.default_runtime.clone());
        let isolation = about.isolation_of(&runtime);
        prepare(folder, config(&boot, isolation))?;
        let place = Place {
            engine: marker.engine.clone(),
            name: marker.name.clone(),
            process: None,
            folder: folder.to_owned(),
            isolation,
            limits: limits::reports(&spec.limits, isolation, &about.groups),
        };
        let launched = self.launch(&engine, place, lifetime, journal, None).await;
        if launched.is_err() {
            object::end(&engine, &marker.name).await?;
        }
        launched
    }

    /// Starts a container and finds its first process.
    async fn launch(
        &self,
        engine: &Engine,
        mut place: Place,
        lifetime: Lifetime,
        journal: &Arc<dyn Journal>,
        memory: Option<&Path>,
    ) -> Result<Place> {
        if lifetime == Lifetime::Owned {
            let input = object::hold_input(engine, &place.name).await?;
            self.held().insert(place.name.clone(), input);
        }
        let started = async {
            match memory {
                None => object::start(engine, &place.name).await?,
                Some(memory) => {
                    let made = object::inspect(engine, &place.name).await?.and_then(|made| made.id).unwrap_or_default();
                    // The engine refuses to take the same memory twice at once.
                    let _turn = Home::open(&self.home)?.loading().await?;
                    memory::start(engine, &place, &made, memory).await?;
                }
            }
            journal.step(STEPS[2]);
            let found = object::inspect(engine, &place.name).await?;
            let container = found.as_ref().and_then(|found| found.id.clone()).unwrap_or_default();
            let pid = found.and_then(|found| found.state?.pid).and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
            place.process = pid.filter(|pid| is_of_container(*pid, &container)).and_then(|pid| HostProcess::of(pid).ok());
            match place.process {
                Some(process) => journal.intend(&process.resource("agent"))?,
                // It may have ended at once, which has a reason.
                None => {
                    if let Facts::Gone(reason) = object::state_now(engine, &place.name)? {
                        return Err(Error::new(ErrorKind::Unavailable, OPERATION, format!("the container ended at once: {reason}")));
                    }
                }
            }
            if place.isolation == Isolation::UserKernel {
                let upper = object::upper(engine, &place.name).await?;
                blocking(move || refuse_own_layer(&upper)).await?;
            }
            Ok(place.clone())
        };
        let started: Result<Place> = started.await;
        if started.is_err() {
            self.held().remove(&place.name);
        }
        if let (Err(_), Some(process)) = (&started, place.process) {
            object::end(engine, &place.name).await?;
            journal.forget(&process.resource("agent"))?;
        }
        started
    }
}

/// Folders of this host are mounted, so the engine must be on it.
fn require_here(engine: &Engine) -> Result<()> {
    if engine.is_here() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, OPERATION, "the engine is not on this host")
        .with("engine", engine.endpoint())
        .with_hint("sandbar uses engines by their unix socket; run sandbar on the engine's host"))
}

/// A runtime that keeps what is written to itself would lose it at a stop, and a checkpoint would miss it.
fn refuse_own_layer(upper: &Path) -> Result<()> {
    let names = fs::read_dir(upper).context(OPERATION, || format!("cannot read {}", upper.display()))?;
    let has_own = names.flatten().any(|entry| entry.file_name().as_encoded_bytes().starts_with(OWN_LAYER.as_bytes()));
    if !has_own {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, OPERATION, "the runtime keeps the writable layer to itself, where the engine cannot keep it")
        .with_hint("give runsc the arguments --overlay2=none --host-uds=all (runtimeArgs in the engine's daemon.json), and --net-raw for networks by rules"))
}

/// Refuses what could leave by a kernel that does not let the agent redirect it. The features are of the engine's default runtime, and this may be another one.
fn refuse_network(spec: &SandboxSpec, about: &About, runtime: &str) -> Result<()> {
    if spec.network.policy().is_none() { Ok(()) } else { about.require_leaving(runtime) }
}

fn config(boot: &Boot<'_>, isolation: Isolation) -> AgentConfig {
    let limits = &boot.spec.limits;
    AgentConfig {
        init: true,
        // What the container has beyond them is the agent's alone.
        capabilities: (isolation == Isolation::UserKernel).then(capabilities::kept),
        open_files: Some(limits::open_files(limits)),
        processes: (isolation == Isolation::UserKernel).then(|| u64::from(limits::pids(limits) + limits::AGENT_PROCESSES)),
        oom_score_adj: OOM_SCORE,
        listen_folder: Some(inside(RUN).into_bytes()),
        egress: boot.spec.network.policy().is_some(),
        owner_input: boot.lifetime == Lifetime::Owned,
        ..agent_config(boot.spec, boot.root)
    }
}

/// Writes what the container finds at its start: the configuration, and an empty folder for the socket. What an earlier boot left in that folder is hostile;
/// the configuration was never writable from inside.
fn prepare(folder: &Path, config: AgentConfig) -> Result<()> {
    let run = folder.join(RUN);
    object::remove_folder(&run)?;
    fs::DirBuilder::new().mode(0o700).create(&run).context(OPERATION, || format!("cannot make {}", run.display()))?;
    let path = folder.join(CONFIG);
    let write = || -> io::Result<()> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(&config.encode_to_vec())?;
        file.set_permissions(fs::Permissions::from_mode(0o400))
    };
    write().context(OPERATION, || format!("cannot write {}", path.display()))
}

/// Limits of a sandbox that is not running.
pub(super) fn reports(engine: &Engine, spec: &sandbar_core::SandboxSpec) -> Vec<LimitReport> {
    let about = engine.about_now();
    let isolation =
        about.as_ref().map_or(Isolation::Namespaces, |about| about.isolation_of(spec.runtime.as_deref().unwrap_or(&about.default_runtime)));
    limits::reports(&spec.limits, isolation, about.as_ref().map_or("the engine", |about| about.groups.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_boot_left_is_not_written_through() {
        let home = tempfile::tempdir().unwrap();
        let victim = home.path().join("victim");
        fs::write(&victim, "untouched").unwrap();
        let folder = home.path().join("g1");
        fs::create_dir(&folder).unwrap();
        prepare(&folder, AgentConfig::default()).unwrap();
        fs::write(folder.join("run/agent.sock"), "").unwrap();
        std::os::unix::fs::symlink(&victim, folder.join("run/link")).unwrap();
        prepare(&folder, AgentConfig { init: true, ..AgentConfig::default() }).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(fs::read_dir(folder.join("run")).unwrap().count(), 0);
        assert!(AgentConfig::decode(&fs::read(folder.join("config")).unwrap()[..]).unwrap().init);
    }

    #[test]
    fn a_runtime_with_a_layer_of_its_own_is_refused() {
        let upper = tempfile::tempdir().unwrap();
        fs::write(upper.path().join("file"), "").unwrap();
        assert!(refuse_own_layer(upper.path()).is_ok());
        fs::write(upper.path().join(".gvisor.filestore.abc"), "").unwrap();
        let error = refuse_own_layer(upper.path()).unwrap_err();
        assert!(error.hint().is_some_and(|hint| hint.contains("--overlay2=none")));
    }
}
