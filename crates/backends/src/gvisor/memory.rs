//! Checkpoints with memory: the sentry writes what the sandbox is, and another one goes on from there.

use std::{
    fs,
    io::Read,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid, fchown, openat};
use sandbar_core::{CheckpointKind, Context, Error, ErrorKind, Result, SavedCheckpoint};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    engine::{self, Engine},
    place::Place,
    wall::hold,
    wire,
};
use crate::host::{
    asked::{Said, first_line},
    folder,
    ids::is_root,
    unsaved,
};

const OPERATION: &str = "checkpoint";
/// The folder of a checkpoint with what the sentry wrote.
pub(super) const MEMORY: &str = "memory";
/// What it writes there: its own state, and where each of the pages of memory belongs, and the pages. Older ones write the first alone.
const STATE_FILE: &str = "checkpoint.img";
/// What a state file begins with (gVisor, `pkg/state/statefile`).
const MAGIC: &[u8] = b"\x67\x56\x69\x73\x6f\x72\x53\x46";
/// Saving takes a tenth of a second and what the disk takes for the sandbox's memory.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pausing and resuming wait for system calls to come to their end.
const PAUSE: Duration = Duration::from_secs(10);
/// Between looks at whether the agent's socket is gone.
const LOOK: Duration = Duration::from_millis(1);

/// What a checkpoint with memory is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Bound {
    /// As `runsc` says its version.
    runsc: String,
    /// How the sentry gets hold of system calls.
    platform: String,
    /// The processor's name.
    cpu: String,
    /// Its abilities: programs that run may have found out about them.
    cpu_flags: String,
}

impl Bound {
    /// Of this machine as it is now.
    ///
    /// # Errors
    /// As [`Engine::version`].
    fn here(engine: &Engine) -> Result<Self> {
        let text = fs::read_to_string("/proc/cpuinfo").context(OPERATION, || "cannot read /proc/cpuinfo".to_owned())?;
        let field = |names: &[&str]| {
            let value = text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                names.contains(&name.trim()).then(|| value.trim().to_owned())
            });
            value.unwrap_or_default()
        };
        Ok(Self {
            runsc: engine.version()?.to_string(),
            platform: engine.platform.name().to_owned(),
            cpu: field(&["model name", "CPU part"]),
            cpu_flags: field(&["flags", "Features"]),
        })
    }

    /// Refuses what was saved elsewhere.
    ///
    /// # Errors
    /// `Conflict`, naming both.
    fn check(&self, here: &Self) -> Result<()> {
        let pairs = [
            ("version of runsc", &self.runsc, &here.runsc),
            ("platform", &self.platform, &here.platform),
            ("CPU", &self.cpu, &here.cpu),
            ("CPU's abilities", &self.cpu_flags, &here.cpu_flags),
        ];
        for (what, saved, now) in pairs {
            if saved != now {
                return Err(Error::new(ErrorKind::Conflict, "restore", format!("the checkpoint's memory is of another {what}"))
                    .with("saved", saved)
                    .with("here", now)
                    .with_hint("start from its disk part: --without-memory"));
            }
        }
        Ok(())
    }
}

/// Whether a checkpoint can be loaded here.
///
/// # Errors
/// `Corrupt` for a record that is none, `Conflict` for one of another version, platform or CPU.
pub(super) fn check(engine: &Engine, record: &Value) -> Result<()> {
    let saved: Bound = serde_json::from_value(record.clone())
        .map_err(|error| Error::new(ErrorKind::Corrupt, "restore", "the checkpoint's record is not of gvisor").with_source(error))?;
    saved.check(&Bound::here(engine)?)
}

/// Saves memory and layer of a sandbox that runs and whose agent is quiet. It goes on, and its agent listens again, whether that succeeds
/// or not.
///
/// # Errors
/// What the sentry cannot save, by name.
pub(super) fn save(engine: &Engine, place: &Place, folder: &Path, into: &Path) -> Result<SavedCheckpoint> {
    let saved = wait_until_quiet(place).and_then(|()| save_paused(engine, place, folder, into));
    let woken = wire::wake(&place.process).context(OPERATION, || "cannot wake the agent".to_owned());
    let saved = saved?;
    woken.map(|()| saved)
}

/// The agent has agreed to be quiet; what it had open is closed when its socket is gone.
fn wait_until_quiet(place: &Place) -> Result<()> {
    let begun = Instant::now();
    while wire::is_there(&place.process) {
        if begun.elapsed() > PAUSE {
            return Err(
                Error::new(ErrorKind::TimedOut, OPERATION, "the agent does not close its connections").with("after", format!("{PAUSE:?}"))
            );
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn save_paused(engine: &Engine, place: &Place, folder: &Path, into: &Path) -> Result<SavedCheckpoint> {
    let bound = Bound::here(engine)?;
    let first = hold(&place.process)?;
    let images = into.join(MEMORY);
    fs::DirBuilder::new().mode(0o700).create(&images).context(OPERATION, || format!("cannot make {}", images.display()))?;
    let open = openat(CWD, &images, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    let images = open.map_err(std::io::Error::from).context(OPERATION, || format!("cannot open {}", images.display()))?;
    give(&images, &place.process.pid.to_string())?;
    let ask = |verb: &str| engine.ask(&first, None, |_| vec![verb.to_owned(), place.id.clone()], PAUSE);
    // Nothing runs between the memory and the layer.
    let paused = ask("pause").and_then(|said| said.success(engine::OPERATION, "runsc cannot pause the sandbox"));
    let saved = paused.and_then(|_| both(engine, place, &first, &images, folder, into));
    // Also after a pause that failed: it may have paused a part. Whoever dials it after this process was killed resumes it.
    let resumed = ask("resume").and_then(|said| said.success(engine::OPERATION, "runsc cannot resume the sandbox"));
    let saved = saved.and_then(|saved| resumed.map(|_| saved));
    let (bytes, files) = saved?;
    let memory = settle(&into.join(MEMORY))?;
    let record =
        serde_json::to_value(&bound).map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "no record").with_source(error))?;
    Ok(SavedCheckpoint { kind: CheckpointKind::Memory, bytes: bytes + memory, files, record })
}

fn both(engine: &Engine, place: &Place, first: &OwnedFd, images: &OwnedFd, folder: &Path, into: &Path) -> Result<(u64, u64)> {
    std::thread::scope(|scope| {
        let layer = scope.spawn(|| folder::save(folder, true, into));
        let arguments = |images: Option<i32>| {
            let images = format!("--image-path=/proc/self/fd/{}", images.unwrap_or(-1));
            vec!["checkpoint".to_owned(), images, "--compression=none".to_owned(), "--leave-running".to_owned(), place.id.clone()]
        };
        let said = engine.ask(first, Some(images), arguments, PATIENCE);
        let layer = layer.join().map_err(|_| Error::new(ErrorKind::Internal, OPERATION, "copying the layer panicked"))?;
        told(said?)?;
        layer
    })
}

/// Lets the sandbox's root write into a folder of ours: it is the sentry that opens nothing, but `runsc` does so with the sandbox's ids.
fn give(folder: &OwnedFd, pid: &str) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let owner = fs::metadata(format!("/proc/{pid}")).context(OPERATION, || "the sandbox's first process is gone".to_owned())?;
    fchown(folder, Some(Uid::from_raw(owner.uid())), Some(Gid::from_raw(owner.gid())))
        .map_err(std::io::Error::from)
        .context(OPERATION, || "cannot give the folder of the memory to the sandbox".to_owned())
}

/// What `runsc checkpoint` says, as an error that names what cannot be saved.
fn told(said: Said) -> Result<()> {
    if said.status.success() {
        return Ok(());
    }
    Err(unsaved::named(&said.text).unwrap_or_else(|| {
        Error::new(ErrorKind::Conflict, OPERATION, "the sandbox holds something that cannot be saved with memory")
            .with_source(std::io::Error::other(first_line(&said.text)))
            .with_hint("save without memory, or end what holds it")
    }))
}

/// Looks at what was written, makes it everybody's to read (below a folder that is not) and nobody's to change; gives its bytes.
fn settle(images: &Path) -> Result<u64> {
    let bad = |message: &str| Error::new(ErrorKind::Corrupt, OPERATION, message.to_owned());
    let mut magic = [0; MAGIC.len()];
    let file = fs::File::open(images.join(STATE_FILE));
    file.and_then(|mut file| file.read_exact(&mut magic)).map_err(|error| bad("runsc wrote no state").with_source(error))?;
    if magic != MAGIC {
        return Err(bad("what runsc wrote is no state"));
    }
    let mut bytes = 0;
    let cannot = || "cannot look at what runsc wrote".to_owned();
    for entry in fs::read_dir(images).context(OPERATION, cannot)? {
        let path = entry.context(OPERATION, cannot)?.path();
        let found = fs::symlink_metadata(&path).context(OPERATION, cannot)?;
        if !found.is_file() || found.len() == 0 {
            return Err(bad("runsc wrote a file that is empty, or none").with("file", path.display()));
        }
        bytes += found.len();
        if is_root() {
            std::os::unix::fs::lchown(&path, Some(0), Some(0)).context(OPERATION, cannot)?;
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).context(OPERATION, cannot)?;
    }
    if is_root() {
        std::os::unix::fs::lchown(images, Some(0), Some(0)).context(OPERATION, cannot)?;
    }
    fs::set_permissions(images, fs::Permissions::from_mode(0o755)).context(OPERATION, cannot)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_platform_or_cpu_is_refused_by_name() {
        let here = Bound { runsc: "1".into(), platform: "systrap".into(), cpu: "c".into(), cpu_flags: "a b".into() };
        here.check(&here).unwrap();
        for other in [
            Bound { runsc: "2".into(), ..here.clone() },
            Bound { platform: "kvm".into(), ..here.clone() },
            Bound { cpu_flags: "a".into(), ..here.clone() },
        ] {
            let error = other.check(&here).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert!(error.to_string().contains("saved") && error.to_string().contains("here"), "{error}");
        }
    }
}
