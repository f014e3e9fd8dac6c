//! No wall: the agent as a plain process of the host, in a workspace folder of its own.
//!
//! The name says what it is. Environment, working directory, file calls and process control are as everywhere; but the commands are the
//! host's own processes with the host's own rights.
//!
//! | module | noun |
//! |---|---|
//! | `boot` | bringing up: workspace, configuration, socket, process |
//! | `spawn` | the process: one clone, system calls, execution |
//! | `cgroup` | the group that holds all processes of one sandbox, where one can be made |
//! | `tree` | the same by signals, where none can |
//! | `folder` | the workspace: saved, copied, measured, removed |

mod boot;
mod cgroup;
mod folder;
mod info;
mod spawn;
#[cfg(test)]
mod tests;
mod tree;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_trait::async_trait;
use cgroup::Cgroup;
use sandbar_core::{
    CheckpointOptions, Connection, Error, ErrorKind, Journal, LimitReport, Probe, ProviderInfo, Resource, Result, SandboxId, SandboxSpec,
    SandboxStats, SavedCheckpoint,
};
use serde::{Deserialize, Serialize};

pub use self::info::claim;
use crate::host::offspring::{self, Life};
use crate::machine::{
    Backend, Boot, Facts, Machine,
    agent::AgentFile,
    process::{HostProcess, ProcessStat},
    socket::{AGENT_SOCKET, connect_in},
};

/// The provider `dangerous-host`.
pub type DangerousHostProvider = Machine<DangerousHost>;

/// The backend under [`DangerousHostProvider`].
#[derive(Clone)]
pub struct DangerousHost(Arc<Host>);

/// What the clones of the backend share.
struct Host {
    agent: AgentFile,
    groups: OnceLock<Option<PathBuf>>,
    /// What a freeze without a group stopped, by agent.
    stopped: Mutex<HashMap<HostProcess, Vec<HostProcess>>>,
}

/// Where one agent runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Place {
    agent: HostProcess,
    /// The generation's folder, with the socket.
    folder: PathBuf,
    cgroup: Option<PathBuf>,
}

impl DangerousHost {
    /// The provider, with its agent in the state folder `home`.
    pub fn provider(home: &Path) -> DangerousHostProvider {
        Machine::new(Self(Arc::new(Host { agent: AgentFile::new(home), groups: OnceLock::new(), stopped: Mutex::default() })))
    }

    /// Runs work that blocks, elsewhere.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Host) -> Result<T> + Send + 'static) -> Result<T> {
        let host = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&host)).await {
            Ok(done) => done,
            Err(error) => Err(Error::new(ErrorKind::Internal, "dangerous-host", "a blocking task ended early").with_source(error)),
        }
    }
}

impl Host {
    /// Where groups can be made; `None` where they cannot. Tried once.
    fn groups(&self) -> Option<&Path> {
        self.groups.get_or_init(Cgroup::parent).as_deref()
    }

    fn facts(&self, place: &Place) -> Facts {
        match offspring::life(&place.agent) {
            Life::Alive => {}
            Life::Gone(Some(ended)) => return Facts::Gone(format!("the agent {ended}")),
            Life::Gone(None) => return Facts::Gone("the agent's process is gone".to_owned()),
        }
        let frozen = match &place.cgroup {
            Some(group) => Cgroup::at(group).is_frozen().unwrap_or(false),
            None => ProcessStat::read(place.agent.pid).is_ok_and(|stat| stat.state == 'T'),
        };
        if frozen { Facts::Frozen } else { Facts::Alive }
    }

    fn freeze(&self, place: &Place) -> Result<()> {
        match &place.cgroup {
            Some(group) => Cgroup::at(group).set_frozen(true),
            None => {
                let stopped = tree::stop(place.agent)?;
                self.stopped().entry(place.agent).or_default().extend(stopped);
                Ok(())
            }
        }
    }

    fn thaw(&self, place: &Place) -> Result<()> {
        match &place.cgroup {
            Some(group) => Cgroup::at(group).set_frozen(false),
            None => {
                let ours = self.stopped().remove(&place.agent);
                // Another sandbar stopped them, and is gone.
                tree::go_on(&ours.map_or_else(|| tree::stopped(place.agent), Ok)?)
            }
        }
    }

    fn halt(&self, place: &Place, journal: &Arc<dyn Journal>) -> Result<()> {
        match &place.cgroup {
            Some(group) => {
                Cgroup::at(group).end()?;
                journal.forget(&Resource::Cgroup { path: group.clone() })?;
            }
            None => tree::kill(place.agent)?,
        }
        self.end_agent(place.agent)?;
        let _ = std::fs::remove_file(place.folder.join(AGENT_SOCKET));
        journal.forget(&place.agent.resource("agent"))
    }

    fn end_agent(&self, agent: HostProcess) -> Result<()> {
        agent.kill(tree::PATIENCE).map_err(|error| Error::io("halt", "cannot end the agent", error).with("pid", agent.pid))?;
        offspring::forget(&agent);
        self.stopped().remove(&agent);
        Ok(())
    }

    fn reclaim(&self, resource: &Resource) -> Result<()> {
        match resource {
            Resource::Process { pid, start_time, .. } => {
                let process = HostProcess { pid: *pid, start_time: *start_time };
                tree::kill(process)?;
                self.end_agent(process)
            }
            Resource::Cgroup { path } => Cgroup::at(path).end(),
            Resource::Folder { path } => folder::remove(path),
            other => Err(Error::new(ErrorKind::Internal, "reclaim", format!("dangerous-host makes no such resource: {other:?}"))),
        }
    }

    fn stopped(&self) -> MutexGuard<'_, HashMap<HostProcess, Vec<HostProcess>>> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for DangerousHost {
    type Place = Place;

    fn info(&self) -> ProviderInfo {
        info::info(self.0.groups())
    }

    async fn probe(&self) -> Probe {
        self.blocking(|host| Ok(info::probe(host))).await.unwrap_or_else(|error| Probe {
            usable: false,
            verdict: error.chain(),
            hint: None,
        })
    }

    async fn boot(&self, boot: Boot<'_>) -> Result<Place> {
        let Boot { id, spec, root, folder, generation, ids: _, lifetime, journal } = boot;
        let boot = boot::OwnedBoot {
            id: id.clone(),
            spec: spec.clone(),
            root: root.clone(),
            folder: folder.to_owned(),
            generation,
            lifetime,
            journal: Arc::clone(journal),
        };
        self.blocking(move |host| boot.run(host)).await
    }

    async fn dial(&self, place: &Place) -> Result<Connection> {
        match connect_in(&place.folder, AGENT_SOCKET).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(Error::new(ErrorKind::Unavailable, "dial", "the agent does not listen").with_source(error)),
        }
    }

    fn facts(&self, place: &Place) -> Facts {
        self.0.facts(place)
    }

    async fn freeze(&self, place: &Place) -> Result<()> {
        let place = place.clone();
        self.blocking(move |host| host.freeze(&place)).await
    }

    async fn thaw(&self, place: &Place) -> Result<()> {
        let place = place.clone();
        self.blocking(move |host| host.thaw(&place)).await
    }

    async fn save(&self, _: Option<&Place>, folder: &Path, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
        let (folder, options) = (folder.to_owned(), options.clone());
        self.blocking(move |_| folder::save(&folder, &options)).await
    }

    async fn halt(&self, place: &Place, _: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
        let (place, journal) = (place.clone(), Arc::clone(journal));
        self.blocking(move |host| host.halt(&place, &journal)).await
    }

    async fn remove(&self, folder: &Path, journal: &Arc<dyn Journal>) -> Result<()> {
        let (path, journal) = (folder.to_owned(), Arc::clone(journal));
        self.blocking(move |_| {
            folder::remove(&path)?;
            journal.forget(&Resource::Folder { path })
        })
        .await
    }

    async fn usage(&self, place: &Place, folder: &Path) -> Result<SandboxStats> {
        let (group, folder) = (place.cgroup.as_deref().map(Cgroup::at), folder.to_owned());
        self.blocking(move |_| {
            Ok(SandboxStats {
                cpu_micros: group.as_ref().and_then(Cgroup::cpu_micros),
                pids: group.as_ref().and_then(Cgroup::tasks),
                disk_bytes: Some(folder::occupied(&folder)?),
                ..SandboxStats::default()
            })
        })
        .await
    }

    fn limits(&self, _: Option<&Place>, spec: &SandboxSpec) -> Vec<LimitReport> {
        info::limits(spec)
    }

    async fn reclaim(&self, _: &SandboxId, resources: &[Resource]) -> Result<()> {
        let resources = resources.to_vec();
        self.blocking(move |host| {
            // Groups first: they end whatever could still write into a folder.
            let rank = |resource: &Resource| match resource {
                Resource::Cgroup { .. } => 0,
                Resource::Process { .. } => 1,
                _ => 2,
            };
            let mut resources = resources;
            resources.sort_by_key(rank);
            resources.iter().map(|resource| host.reclaim(resource)).fold(Ok(()), Result::and)
        })
        .await
    }
}
