//! Checkpoints with memory, where the runtime is a kernel in user space and the engine has checkpoints.
//!
//! The engine keeps checkpoints in the container's own folder of its data, and starts a container from one that lies there. So the files are taken out
//! of it after saving, and put into the new container's before loading. It has to be this host's engine, and this process root.

use std::{
    collections::hash_map::DefaultHasher,
    fs,
    hash::{Hash, Hasher},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use bollard::container::CreateCheckpointOptions;
use rustix::fs::{CWD, Mode, OFlags, openat};
use sandbar_core::{CheckpointKind, CheckpointOptions, Context, Error, ErrorKind, Isolation, Result, SavedCheckpoint};
use sandbar_protocol::{AGENT_SOCKET, WAKE_FILE};
use sandbar_tree::copy_tree;
use serde::{Deserialize, Serialize};

use super::{
    container::RUN,
    engine::{About, Engine, SLOW},
    error::OPERATION,
    freezer,
    image::blocking,
    layer, object,
    place::Place,
};
use crate::{host::unsaved, machine::saving::SaveNote};

/// The name of a checkpoint in the engine, and of its folder in a checkpoint of ours.
const NAME: &str = "memory";
/// What a runtime leaves when it could not save: less than the head of an image.
const LEAST_BYTES: u64 = 4096;
/// What an engine says of content that it has: each save writes down the same description of the container, each load takes in the same memory, and what
/// came before is there until the engine has collected its garbage, of whose end it tells nobody.
const TWICE: &str = "already exists";
/// How long that may take: containerd rests fifty times as long as its last collection took (`pause_threshold`), which on a busy machine is seconds.
const COLLECTED: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);
/// How long the agent may take to close its listener after it has said that it will.
const QUIET: Duration = Duration::from_secs(2);

/// What a memory is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    runtime: String,
    version: String,
    processor: String,
}

impl Bound {
    /// What it would be bound to on this host. Blocks for running the runtime's program.
    ///
    /// # Errors
    /// `Unavailable` when the runtime does not tell its version.
    pub(super) fn here(about: &About, runtime: &str) -> Result<Self> {
        let path = about.runtimes.iter().find(|(name, _)| name == runtime).map_or(runtime, |(_, path)| path.as_str());
        let said = Command::new(path).arg("--version").output();
        let said = said.context(OPERATION, || format!("cannot run {path} for its version"))?;
        let version = String::from_utf8_lossy(&said.stdout).lines().next().unwrap_or_default().trim().to_owned();
        if version.is_empty() {
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, format!("{path} does not tell its version")));
        }
        Ok(Self { runtime: runtime.to_owned(), version, processor: processor() })
    }

    /// Refuses another version or processor.
    ///
    /// # Errors
    /// `Conflict`, with both.
    pub(super) fn require(&self, here: &Self) -> Result<()> {
        if self == here {
            return Ok(());
        }
        let message = "the memory was saved by another runtime, or on another processor";
        Err(Error::new(ErrorKind::Conflict, "restore", message)
            .with("saved by", format!("{} ({}) on {}", self.runtime, self.version, self.processor))
            .with("here", format!("{} ({}) on {}", here.runtime, here.version, here.processor))
            .with_hint("its disk alone can be used: --without-memory"))
    }
}

/// The processor's model and what it can do, which the memory's programs may have asked for.
fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix(':')).unwrap_or_default().trim();
    let mut hasher = DefaultHasher::new();
    value("flags").hash(&mut hasher);
    format!("{} {:016x}", value("model name"), hasher.finish())
}

/// Saves layer and memory as of one moment, lets everything go on and wakes the agent, also when saving failed.
///
/// # Errors
/// `Unsupported` for a runtime that cannot; what the runtime says of what cannot be saved.
pub(super) async fn save(engine: &Engine, place: &Place, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
    let run = place.folder.join(RUN);
    let saved = async {
        require(engine, place).await?;
        quiet(&run).await?;
        freezer::freeze(engine, place).await?;
        let saved = saved_while_frozen(engine, place, options).await;
        freezer::thaw(engine, place).await?;
        saved
    };
    let saved = saved.await;
    wake(&run)?;
    saved
}

async fn require(engine: &Engine, place: &Place) -> Result<()> {
    let refuse = |message: &str, hint: &str| Err(Error::new(ErrorKind::Unsupported, "checkpoint", message).with_hint(hint));
    if place.isolation != Isolation::UserKernel {
        return refuse("the runtime of this sandbox cannot save memory", "make the sandbox with --runtime runsc, or save its disk alone");
    }
    if !engine.about().await?.experimental {
        return refuse("the engine has no checkpoints", "set \"experimental\": true in its daemon.json, or save the disk alone");
    }
    Ok(())
}

async fn saved_while_frozen(engine: &Engine, place: &Place, options: &CheckpointOptions) -> Result<SavedCheckpoint> {
    let about = engine.about().await?;
    let upper = object::upper(engine, &place.name).await?;
    let into = options.into.clone();
    let (bytes, files) = blocking(move || layer::save(&upper, &into)).await?;
    let (id, runtime) = identity(engine, place).await?;
    let folder = checkpoints(&about, &id).join(NAME);
    let taken = match create(engine, &place.name).await {
        Ok(()) => {
            let into = options.into.join(NAME);
            blocking(move || {
                let bytes = copy(&folder, &into)?;
                Ok((bytes, Bound::here(&about, &runtime)?))
            })
            .await
        }
        Err(error) => Err(match unsaved::named(&error.chain()) {
            Some(named) => named.with_source(error),
            None => error.with_hint("a process inside may hold what cannot be saved: end it, or save the disk alone"),
        }),
    };
    delete(engine, &place.name).await;
    let (memory, bound) = taken?;
    if memory < LEAST_BYTES {
        return Err(Error::new(ErrorKind::Corrupt, "checkpoint", "the runtime saved only a part of the memory").with("bytes", memory));
    }
    let record = serde_json::to_value(bound)
        .map_err(|error| Error::new(ErrorKind::Internal, "checkpoint", "the record cannot be written as JSON").with_source(error))?;
    Ok(SavedCheckpoint { kind: CheckpointKind::Memory, bytes: bytes + memory, files, record })
}

/// Has the engine save a container's memory under its own roof.
async fn create(engine: &Engine, name: &str) -> Result<()> {
    unless_kept(|| async move {
        // One that an earlier save has left.
        delete(engine, name).await;
        let asked = name.to_owned();
        let made = engine.ask("save the container's memory", SLOW * 5, |client| async move {
            let options = CreateCheckpointOptions { checkpoint_id: NAME.to_owned(), checkpoint_dir: None, exit: false };
            client.create_checkpoint(&asked, options).await
        });
        made.await
    })
    .await
}

/// Does it again as long as the engine refuses it for content that it keeps.
async fn unless_kept<Attempt: Future<Output = Result<()>>>(attempt: impl Fn() -> Attempt) -> Result<()> {
    let begun = Instant::now();
    loop {
        match attempt().await {
            Err(error) if error.chain().contains(TWICE) && begun.elapsed() < COLLECTED => tokio::time::sleep(PAUSE).await,
            done => return done,
        }
    }
}

async fn identity(engine: &Engine, place: &Place) -> Result<(String, String)> {
    let found = object::inspect(engine, &place.name).await?;
    let id = found.as_ref().and_then(|found| found.id.clone());
    let runtime = found.and_then(|found| found.host_config?.runtime);
    id.zip(runtime).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, OPERATION, "the engine has no such container any more").with("container", &place.name)
    })
}

async fn delete(engine: &Engine, name: &str) {
    let asked = name.to_owned();
    // It goes with the container at the latest.
    let _ = engine.try_ask("remove a checkpoint", SLOW, |client| async move { client.delete_checkpoint(&asked, NAME, None).await }).await;
}

/// Puts a saved memory where the engine looks for the new container's, and starts that from it. The agent in it is woken.
///
/// # Errors
/// `Conflict` for the memory of another version or processor; those of the engine.
pub(super) async fn start(engine: &Engine, place: &Place, container: &str, memory: &Path) -> Result<()> {
    let about = engine.about().await?;
    let folder = checkpoints(&about, container);
    let from = memory.join(NAME);
    blocking(move || {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.context(OPERATION, || format!("cannot make {}", folder.display()))?;
        copy(&from, &folder.join(NAME)).map(drop)
    })
    .await?;
    let path = format!("/containers/{}/start?checkpoint={NAME}", place.name);
    let started = unless_kept(|| engine.post("start the container from its memory", &path)).await;
    delete(engine, &place.name).await;
    started?;
    wake(&place.folder.join(RUN))
}

/// Where the engine keeps the checkpoints of a container.
fn checkpoints(about: &About, container: &str) -> PathBuf {
    about.root.join("containers").join(container).join("checkpoints")
}

/// Copies a folder of files to one that is made; gives their bytes.
fn copy(from: &Path, into: &Path) -> Result<u64> {
    let copy = || -> io::Result<u64> {
        fs::DirBuilder::new().mode(0o700).create(into)?;
        let open = |path: &Path| openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        Ok(copy_tree(open(from)?, open(into)?)?.bytes)
    };
    copy().context(OPERATION, || format!("cannot copy {} to {}", from.display(), into.display()))
}

/// Waits until the agent has closed its listener, which it does right after it has said so.
async fn quiet(run: &Path) -> Result<()> {
    let begun = Instant::now();
    while fs::symlink_metadata(run.join(AGENT_SOCKET)).is_ok() {
        if begun.elapsed() > QUIET {
            return Err(Error::new(ErrorKind::TimedOut, "checkpoint", "the agent does not close its socket"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Lets a sandbox go on that somebody has made quiet to save it, and who was killed before it went on. (What he has frozen, the runtime thaws.)
///
/// # Errors
/// Of waking.
pub(super) fn settle(note: &SaveNote, place: &Place) -> Result<()> {
    let run = place.folder.join(RUN);
    note.settle(fs::symlink_metadata(run.join(AGENT_SOCKET)).is_ok(), || wake(&run))
}

/// Ends the agent's quiet. The folder is hostile: nothing there is followed or written into.
fn wake(run: &Path) -> Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(run.join(WAKE_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Error::io(OPERATION, "cannot wake the agent", error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_of_another_version_is_refused_with_both() {
        let saved = Bound { runtime: "runsc".to_owned(), version: "1".to_owned(), processor: "x".to_owned() };
        assert!(saved.require(&saved.clone()).is_ok());
        let error = saved.require(&Bound { version: "2".to_owned(), ..saved.clone() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("(1)") && error.to_string().contains("(2)"), "{error}");
    }

    #[test]
    fn waking_follows_nothing() {
        let run = tempfile::tempdir().unwrap();
        let victim = run.path().join("victim");
        std::os::unix::fs::symlink(&victim, run.path().join(WAKE_FILE)).unwrap();
        wake(run.path()).unwrap();
        assert!(!victim.exists());
    }
}
