//! One container, as the engine has it.

use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    pin::Pin,
    time::{Duration, Instant},
};

use bollard::{
    errors::Error as Said,
    models::{ContainerInspectResponse, ContainerState},
    query_parameters::{
        AttachContainerOptions, InspectContainerOptions, KillContainerOptions, RemoveContainerOptions, StartContainerOptions,
        WaitContainerOptions,
    },
};
use futures_util::StreamExt;
use rustix::fs::{CWD, Mode, OFlags, openat};
use sandbar_core::{Connection, Context, Error, ErrorKind, Resource, Result};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;

use super::{
    container::RUN,
    engine::{Engine, QUICK, SLOW},
    error::{OPERATION, explain, is_missing},
    freezer,
    image::blocking,
    owner::{HOME_LABEL, Home},
    place::is_of_container,
    shim,
};
use crate::machine::{
    Facts,
    socket::{AGENT_SOCKET, connect_in_hostile},
};

/// How long a first process may take to end once it is killed, and everything with it.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Between attempts.
const LOOK: Duration = Duration::from_millis(100);
/// The file in a generation's folder that says which container it is.
const MARKER: &str = "container.json";

/// The standard input of a container, which the engine closes when its holder is gone.
pub(super) type Input = Pin<Box<dyn AsyncWrite + Send>>;

/// Which container a generation is; written before the container is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) engine: String,
    pub(super) name: String,
}

impl Marker {
    /// Reads it; `None` when there is none.
    ///
    /// # Errors
    /// `Corrupt` when it cannot be understood.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MARKER);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| Error::new(ErrorKind::Corrupt, OPERATION, "the container's name cannot be read").with_source(error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io(OPERATION, format!("cannot read {}", path.display()), error)),
        }
    }

    /// Writes it.
    ///
    /// # Errors
    /// `ResourceExhausted` when the disk is full.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(MARKER);
        let text = serde_json::to_vec(self).map_err(io::Error::other);
        let written = text.and_then(|text| {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut file, &text)
        });
        written.context(OPERATION, || format!("cannot write {}", path.display()))
    }

    /// Takes it away.
    pub(super) fn remove(folder: &Path) {
        let _ = fs::remove_file(folder.join(MARKER));
    }

    /// The container as a row of the ledger.
    pub(super) fn resource(&self) -> Resource {
        Resource::Engine { engine: self.engine.clone(), object: "container".to_owned(), name: self.name.clone() }
    }
}

/// What the engine knows of a container; `None` when it has none of that name.
///
/// # Errors
/// Those of the engine.
pub(super) async fn inspect(engine: &Engine, name: &str) -> Result<Option<ContainerInspectResponse>> {
    let asked = name.to_owned();
    let found = engine.try_ask("look at a container", QUICK, |client| async move {
        client.inspect_container(&asked, None::<InspectContainerOptions>).await
    });
    match found.await? {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(explain(engine.endpoint(), "look at a container", error)),
    }
}

/// The state of a container, for those who cannot wait.
///
/// # Errors
/// Those of the engine.
pub(super) fn state_now(engine: &Engine, name: &str) -> Result<Facts> {
    let asked = name.to_owned();
    let found = engine.ask_now("look at a container", |client| async move {
        match client.inspect_container(&asked, None::<InspectContainerOptions>).await {
            Err(error) if is_missing(&error) => Ok(None),
            found => found.map(Some),
        }
    });
    Ok(match found? {
        Some(found) => found.state.map_or_else(|| Facts::Gone("the engine does not tell its state".to_owned()), state),
        None => Facts::Gone("the engine has no such container any more".to_owned()),
    })
}

pub(super) fn state(state: ContainerState) -> Facts {
    if state.paused == Some(true) {
        return Facts::Frozen;
    }
    if state.running == Some(true) {
        return Facts::Alive;
    }
    let out_of_memory = if state.oom_killed == Some(true) { " (the sandbox ran out of memory)" } else { "" };
    // The engine reports signals as the shell does.
    Facts::Gone(match state.exit_code {
        Some(code @ 129..=192) => format!("the agent was ended by signal {}{out_of_memory}", code - 128),
        Some(code) => format!("the agent exited with code {code}{out_of_memory}"),
        None => format!("the container ended{out_of_memory}"),
    })
}

/// Where the engine keeps the writable layer, in the host's own form.
///
/// # Errors
/// `NotFound` when the container is gone; `Unsupported` when the engine keeps it otherwise.
pub(super) async fn upper(engine: &Engine, name: &str) -> Result<PathBuf> {
    let missing = || Error::new(ErrorKind::NotFound, OPERATION, "the engine has no such container any more").with("container", name);
    let found = inspect(engine, name).await?.ok_or_else(missing)?;
    let layer = found.graph_driver.filter(|driver| driver.name == "overlay2").and_then(|driver| driver.data.get("UpperDir").cloned());
    layer.map(PathBuf::from).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, OPERATION, "the engine does not keep layers as folders of this host")
            .with_hint("sandbar reads the layers of an engine on this host whose storage driver is overlay2")
    })
}

/// Holds the standard input of a container that is about to start.
///
/// # Errors
/// Those of the engine.
pub(super) async fn hold_input(engine: &Engine, name: &str) -> Result<Input> {
    let asked = name.to_owned();
    engine
        .ask("attach to a container", QUICK, |client| async move {
            let options = AttachContainerOptions { stdin: true, stream: true, ..AttachContainerOptions::default() };
            Ok(client.attach_container(&asked, Some(options)).await?.input)
        })
        .await
}

/// Starts a container.
///
/// # Errors
/// Those of the engine and of its runtime.
pub(super) async fn start(engine: &Engine, name: &str) -> Result<()> {
    const WHAT: &str = "start the container";
    let mut begun = None;
    loop {
        let asked = name.to_owned();
        let started =
            engine.try_ask(WHAT, SLOW, |client| async move { client.start_container(&asked, None::<StartContainerOptions>).await });
        let Err(error) = started.await? else { return Ok(()) };
        if !shim::is_left(&error) || begun.is_some_and(|begun: Instant| begun.elapsed() > PATIENCE) {
            return Err(explain(engine.endpoint(), WHAT, error));
        }
        if begun.is_none() {
            let id = inspect(engine, name).await?.and_then(|found| found.id).unwrap_or_default();
            blocking(move || shim::end(&id)).await?;
            begun = Some(Instant::now());
        }
        // The engine hears of its end by itself, and tells nobody.
        tokio::time::sleep(LOOK).await;
    }
}

/// Ends everything in a container, if anything runs, and waits until the engine knows. One that is gone is no error.
///
/// # Errors
/// Those of the engine.
pub(super) async fn end(engine: &Engine, name: &str) -> Result<()> {
    let Some(found) = inspect(engine, name).await? else { return Ok(()) };
    let mut thawed = Ok(());
    let runs = found.state.as_ref().is_some_and(|state| state.running == Some(true));
    // Of one whose first process is gone the engine waits in vain for an end that it caused.
    if runs && !is_dead(&found) {
        let asked = name.to_owned();
        // It may have ended meanwhile: what counts is what comes of it.
        let _ = engine
            .try_ask("end the container", SLOW, |client| async move {
                client.kill_container(&asked, Some(KillContainerOptions { signal: "KILL".to_owned() })).await
            })
            .await?;
        if found.state.as_ref().is_some_and(|state| state.paused == Some(true)) {
            // One that has ended of the signal already cannot be thawed: what counts is what comes of it, here too.
            thawed = freezer::change(engine, name, false).await;
        }
    }
    match ended(engine, name).await {
        Err(error) if error.kind() == ErrorKind::TimedOut && is_dead(&found) => {
            let id = found.id.unwrap_or_default();
            blocking(move || shim::end(&id)).await?;
            ended(engine, name).await
        }
        told => told.map_err(|error| thawed.err().unwrap_or(error)),
    }
}

/// Waits until the engine knows that a container has ended.
async fn ended(engine: &Engine, name: &str) -> Result<()> {
    let asked = name.to_owned();
    let waited = engine.try_ask("wait for the container's end", PATIENCE, |client| async move {
        let options = WaitContainerOptions { condition: "not-running".to_owned() };
        std::pin::pin!(client.wait_container(&asked, Some(options))).next().await.transpose()
    });
    match waited.await? {
        // An exit code other than zero is told as an error.
        Ok(_) | Err(Said::DockerContainerWaitError { .. }) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        Err(error) => Err(explain(engine.endpoint(), "wait for the container's end", error)),
    }
}

/// Whether the first process of a container is gone, whatever the engine has heard.
fn is_dead(found: &ContainerInspectResponse) -> bool {
    let pid = found.state.as_ref().and_then(|state| state.pid).and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    pid.zip(found.id.as_deref()).is_some_and(|(pid, id)| !is_of_container(pid, id))
}

/// Removes a container with its layer, if it is this home's. One that is gone is no error.
///
/// # Errors
/// `Conflict` for one that is not ours; those of the engine.
pub(super) async fn remove(engine: &Engine, home: &Home, name: &str) -> Result<()> {
    let Some(found) = inspect(engine, name).await? else { return Ok(()) };
    let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
    if labels.get(HOME_LABEL).map(String::as_str) != Some(home.id()) {
        return Err(Error::new(ErrorKind::Conflict, OPERATION, "a container of this name is not sandbar's, or another state folder's")
            .with("container", name));
    }
    let asked = name.to_owned();
    let removed = engine.try_ask("remove the container", SLOW, |client| async move {
        let options = RemoveContainerOptions { force: true, v: true, link: false };
        client.remove_container(&asked, Some(options)).await
    });
    match removed.await? {
        Ok(()) => Ok(()),
        Err(error) if is_missing(&error) => Ok(()),
        // Somebody else removes it: that is waited for.
        Err(Said::DockerResponseServerError { status_code: 409, .. }) => gone(engine, name).await,
        Err(error) => Err(explain(engine.endpoint(), "remove the container", error)),
    }
}

async fn gone(engine: &Engine, name: &str) -> Result<()> {
    let wait = async {
        while inspect(engine, name).await?.is_some() {
            // The engine has no other way to tell of the end of a removal that somebody else began.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    };
    let late = || Error::new(ErrorKind::TimedOut, OPERATION, "the container is still being removed").with("container", name);
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| Err(late()))
}

/// Removes a folder with everything in it. One that is gone is no error.
///
/// # Errors
/// Of the file system.
pub(super) fn remove_folder(folder: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (folder.parent(), folder.file_name()) else {
        return Err(Error::new(ErrorKind::Internal, OPERATION, "a folder without a parent").with("path", folder.display()));
    };
    let parent = match openat(CWD, parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        opened => opened.map_err(io::Error::from).context(OPERATION, || format!("cannot open {}", parent.display()))?,
    };
    match sandbar_tree::remove_tree(parent, name) {
        Err(error) if error.kind() != sandbar_tree::ErrorKind::NotFound => {
            Err(Error::io(OPERATION, format!("cannot remove {}", folder.display()), error.into()))
        }
        _ => Ok(()),
    }
}

/// A stream to the agent's socket in a generation's folder.
///
/// # Errors
/// `Unavailable` when nobody listens.
pub(super) async fn dial(folder: &Path) -> Result<Connection> {
    match connect_in_hostile(&folder.join(RUN), AGENT_SOCKET).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(Error::new(ErrorKind::Unavailable, "dial", "the agent does not listen").with_source(error)),
    }
}
