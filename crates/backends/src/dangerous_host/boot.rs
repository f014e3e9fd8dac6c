use std::{
    collections::BTreeMap,
    ffi::{CString, OsString},
    fs,
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStringExt, fs::DirBuilderExt},
    },
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use prost::Message;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use sandbar_core::{Context, Error, ErrorKind, Journal, Lifetime, Resource, Result, RootSource, SandboxId, SandboxSpec};
use sandbar_protocol::{AgentConfig, EnvVar};

use super::{
    Host, Place,
    cgroup::Cgroup,
    folder::{LAYER, copy_into},
    spawn::{Spawn, Spawned},
};
use crate::host::offspring;
use crate::machine::{
    config::agent_config,
    launcher::launch,
    process::HostProcess,
    socket::{AGENT_SOCKET, listen_in},
};

/// The variables of the host that a sandbox sees, and nothing else of it.
const PASSED_ON: [&str; 4] = ["PATH", "LANG", "TERM", "TZ"];
/// Where programs are found when the host's own environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How often a program file that another thread's child still holds open for writing is tried again.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// A boot with everything owned, for a thread that may block.
pub(super) struct OwnedBoot {
    pub(super) id: SandboxId,
    pub(super) spec: SandboxSpec,
    pub(super) root: RootSource,
    pub(super) folder: PathBuf,
    pub(super) generation: u32,
    pub(super) lifetime: Lifetime,
    pub(super) journal: Arc<dyn Journal>,
}

impl OwnedBoot {
    /// Starts the agent. Blocks.
    pub(super) fn run(self, host: &Host) -> Result<Place> {
        let layer = self.folder.join(LAYER);
        let config = self.config(&layer)?;
        self.make_layer(&layer)?;
        let listener = listen_in(&self.folder, AGENT_SOCKET).context("boot", || "cannot make the agent's socket".to_owned())?;
        let program = c_path(host.agent.path()?)?;
        let (config_end, mut config_pipe) = config_pipe(config.len())?;
        let folder = c_path(&layer)?;

        let cgroup = host.groups().map(|parent| Cgroup::named(parent, &format!("{}-g{}", self.id, self.generation)));
        let resource = cgroup.as_ref().map(|cgroup| Resource::Cgroup { path: cgroup.path().to_owned() });
        resource.as_ref().map_or(Ok(()), |resource| self.journal.intend(resource))?;
        let started = (|| {
            let group = cgroup.as_ref().map(Cgroup::make).transpose()?;
            let spawn = Spawn { program, folder, cgroup: group, config: config_end, listener };
            let spawned = match self.lifetime {
                Lifetime::Detached => spawn_patiently(spawn),
                // The agent asks the kernel for a signal when this process is gone.
                Lifetime::Owned => launch(move || spawn_patiently(spawn)).and_then(|spawned| spawned),
            };
            let Spawned { pid, held } = spawned.map_err(|error| cannot_execute(error, host))?;
            // It is held, so the id is still its own; it waits for its configuration, so it has done nothing yet.
            let agent = HostProcess::of(pid).context("boot", || "the agent ended at once".to_owned())?;
            offspring::add(agent, held);
            self.journal.intend(&agent.resource("agent"))?;
            config_pipe.write_all(&config).context("boot", || "the agent does not read its configuration".to_owned())?;
            Ok(agent)
        })();
        match started {
            Ok(agent) => Ok(Place { agent, folder: self.folder, cgroup: cgroup.map(|cgroup| cgroup.path().to_owned()) }),
            Err(error) => {
                // The pipe is closed without a word: the agent ends by itself, and with the group at once.
                drop(config_pipe);
                if let (Some(cgroup), Some(resource)) = (&cgroup, &resource) {
                    cgroup.end().and_then(|()| self.journal.forget(resource)).unwrap_or_else(|left| {
                        tracing::warn!(error = %left.chain(), "cannot remove the group of a sandbox that did not start");
                    });
                }
                Err(error)
            }
        }
    }

    fn make_layer(&self, layer: &Path) -> Result<()> {
        let made = fs::DirBuilder::new().mode(0o755).create(layer);
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            made => made.context("boot", || format!("cannot make {}", layer.display()))?,
        }
        // A checkpoint of this provider holds the whole workspace, so of several layers the last one is what counts.
        if let Some(saved) = self.root.saved_layers.last() {
            copy_into(saved, layer)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(layer.join("tmp")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("boot", "cannot make the workspace's tmp", error)),
            _ => Ok(()),
        }
    }

    fn config(&self, layer: &Path) -> Result<Vec<u8>> {
        let base = agent_config(&self.spec, &self.root);
        let mut variables: BTreeMap<Vec<u8>, Vec<u8>> =
            PASSED_ON.iter().filter_map(|name| Some((name.as_bytes().to_vec(), std::env::var_os(name)?.into_vec()))).collect();
        variables.entry(b"PATH".to_vec()).or_insert_with(|| DEFAULT_PATH.into());
        variables.insert(b"HOME".to_vec(), bytes(layer));
        variables.insert(b"TMPDIR".to_vec(), bytes(&layer.join("tmp")));
        variables.extend(base.env.into_iter().filter_map(|variable| Some((variable.name, variable.value?))));
        let config = AgentConfig {
            env: variables.into_iter().map(|(name, value)| EnvVar { name, value: Some(value) }).collect(),
            workdir: Some(bytes(&workdir(layer, self.spec.workdir.as_deref())?)),
            user: None,
            jail: Some(bytes(layer)),
            owner_pid: if self.lifetime == Lifetime::Owned { std::process::id() } else { 0 },
            ..base
        };
        Ok(config.encode_to_vec())
    }
}

/// The working directory of every command: relative to the workspace, and in it.
fn workdir(layer: &Path, asked: Option<&str>) -> Result<PathBuf> {
    let asked = Path::new(asked.unwrap_or("."));
    let climbs = asked.components().any(|component| component == Component::ParentDir);
    let joined = layer.join(asked);
    if climbs || !joined.starts_with(layer) {
        return Err(Error::new(ErrorKind::InvalidInput, "boot", "the working directory must lie in the workspace")
            .with("workdir", asked.display())
            .with_hint("on dangerous-host a working directory is relative to the workspace: src, not /src"));
    }
    Ok(joined.components().collect())
}

/// A pipe that takes the whole configuration without waiting for the agent, as far as the kernel lets us.
fn config_pipe(length: usize) -> Result<(OwnedFd, fs::File)> {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from).context("boot", || "cannot make a pipe".to_owned())?;
    // A smaller one only means that writing waits for the agent to read.
    let _ = fcntl_setpipe_size(&writing, length);
    Ok((reading, fs::File::from(writing)))
}

/// Our copies of the child's descriptors are closed when this returns.
fn spawn_patiently(spawn: Spawn) -> io::Result<Spawned> {
    for _ in 0..BUSY_TRIES {
        match spawn.spawn() {
            // A thread forked while another one wrote the file: its child holds it open until it executes something.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(BUSY_PAUSE),
            done => return done,
        }
    }
    spawn.spawn()
}

fn cannot_execute(error: io::Error, host: &Host) -> Error {
    let failed = Error::io("boot", "cannot start the agent", error);
    let failed = match host.agent.path() {
        Ok(path) => failed.with("program", path.display()),
        Err(_) => failed,
    };
    failed.with_hint("the state folder must not lie on a file system that is mounted noexec")
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(bytes(path)).map_err(|error| Error::new(ErrorKind::InvalidInput, "boot", "a path has a NUL").with_source(error))
}

fn bytes(path: &Path) -> Vec<u8> {
    OsString::from(path).into_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn working_directories_lie_in_the_workspace() {
        let layer = Path::new("/h/layer");
        assert_eq!(workdir(layer, None).unwrap(), layer);
        assert_eq!(workdir(layer, Some("a/./b")).unwrap(), layer.join("a/b"));
        assert_eq!(workdir(layer, Some("/h/layer/x")).unwrap(), layer.join("x"));
        for outside in ["/", "/etc", "..", "a/../../b", "/h/layer/../x", "/h/layering"] {
            assert_eq!(workdir(layer, Some(outside)).unwrap_err().kind(), ErrorKind::InvalidInput, "{outside}");
        }
    }
}
