use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
    time::{Duration, Instant},
};

use sandbar_core::{CheckpointKind, Context, Error, ErrorKind, Result, SavedCheckpoint};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    api::Api,
    blocking,
    boot::{CONFIG, IMAGE, OwnedBoot, SAVED, SCRATCH},
    console, disk, info,
    version::Version,
    wall::Place,
};
use crate::machine::{agent::AgentFile, sparse};

const OPERATION: &str = "memory";
/// The machine's memory, which nobody changes, and the state of everything else in it.
const MEMORY: &str = "memory";
const STATE: &str = "state";
/// How long memory may take to be written or read: some GiB on a slow disk.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long Firecracker may take until it listens.
const CONTROL: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(2);

/// What a saved machine is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Bound {
    firecracker: Version,
    /// The processor's model.
    processor: String,
    /// The host's kernel.
    kernel: String,
}

impl Bound {
    /// As things are here.
    fn here() -> Result<Self> {
        let program =
            info::program("firecracker").ok_or_else(|| Error::new(ErrorKind::Unavailable, OPERATION, "firecracker is missing"))?;
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':').map(|(_, value)| value.trim().to_owned()));
        let processor = ["model name", "cpu family", "model\t", "stepping"].map(|name| field(name).unwrap_or_default()).join(" ");
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Ok(Self { firecracker: Version::of(&program)?, processor, kernel })
    }

    /// # Errors
    /// `Conflict`, with both.
    fn check(&self, record: &Value) -> Result<()> {
        let then: Self = serde_json::from_value(record.clone()).map_err(|error| {
            Error::new(ErrorKind::Corrupt, OPERATION, "the record of the saved memory cannot be read").with_source(error)
        })?;
        if then == *self {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            OPERATION,
            "the memory was saved by another Firecracker, on another processor or kernel than are here",
        )
        .with("saved by", then.describe())
        .with("here", self.describe())
        .with_hint("restore its disk alone: --without-memory"))
    }

    fn describe(&self) -> String {
        format!("Firecracker {} on {}, Linux {}", self.firecracker, self.processor, self.kernel)
    }
}

/// Saves a machine whose agent is quiet, into a folder that stays as it is from then on. The machine goes on, whatever happens. The writable layer is
/// saved as well, for those who begin anew on the disk.
///
/// # Errors
/// Of the machine or the file system.
pub(super) async fn save(place: &Place, into: &Path) -> Result<SavedCheckpoint> {
    let (from, to) = (place.folder.clone(), into.to_owned());
    let fetched = blocking(move || disk::fetch(&from, &to)).await?;
    place.freeze().await?;
    let written = write(place, into).await;
    let thawed = place.thaw().await;
    let bytes = written?;
    thawed?;
    let record = serde_json::to_value(blocking(Bound::here).await?)
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the record cannot be written as JSON").with_source(error))?;
    Ok(SavedCheckpoint { kind: CheckpointKind::Memory, bytes: bytes + fetched.bytes, files: fetched.files, record })
}

/// Writes disks, memory and state of a machine that stands still. The bytes that they take.
async fn write(place: &Place, into: &Path) -> Result<u64> {
    let api = Api { folder: place.folder.clone() };
    let request = json!({ "snapshot_type": "Full", "snapshot_path": STATE, "mem_file_path": MEMORY });
    let asked = api.put("/snapshot/create", &request, PATIENCE).await;
    let (from, to) = (place.folder.clone(), into.to_owned());
    blocking(move || {
        let kept = asked.and_then(|()| {
            keep(&from, &to, STATE)?;
            keep(&from, &to, MEMORY)?;
            for name in [SCRATCH, CONFIG, IMAGE, SAVED] {
                let (source, target) = (from.join(name), to.join(name));
                if !source.exists() {
                    continue;
                }
                // What nobody changes is shared.
                if name == SCRATCH || fs::hard_link(&source, &target).is_err() {
                    sparse::copy(&source, &target).context(OPERATION, || format!("cannot copy {name}"))?;
                }
            }
            Ok([STATE, MEMORY, SCRATCH].iter().map(|name| occupied(&to.join(name))).sum())
        });
        for name in [STATE, MEMORY] {
            let _ = fs::remove_file(from.join(name));
        }
        kept
    })
    .await
}

/// Takes a file that Firecracker has written, which from now on nobody changes.
fn keep(from: &Path, to: &Path, name: &str) -> Result<()> {
    let (source, target) = (from.join(name), to.join(name));
    match fs::rename(&source, &target) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => sparse::copy(&source, &target),
        renamed => renamed,
    }
    .and_then(|()| if rustix::process::geteuid().is_root() { chown(&target, Some(0), Some(0)) } else { Ok(()) })
    .and_then(|()| fs::set_permissions(&target, fs::Permissions::from_mode(0o444)))
    .context(OPERATION, || format!("cannot keep the machine's {name}"))
}

fn occupied(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512)
}

/// Brings up a machine from what [`save`] has left, in a new generation's folder.
///
/// # Errors
/// `Conflict` when it was saved by another Firecracker, on another processor or kernel; of the machine.
pub(super) async fn load(boot: OwnedBoot, saved: &Path, record: &Value, agent: std::sync::Arc<AgentFile>) -> Result<Place> {
    let (saved, record) = (saved.to_owned(), record.clone());
    let (place, journal) = blocking(move || {
        Bound::here()?.check(&record)?;
        let site = boot.site()?;
        // Also where a start after a stop looks for them.
        for name in [CONFIG, SAVED] {
            if saved.join(name).exists() {
                let _ = fs::remove_file(boot.folder.join(name));
                sparse::copy(&saved.join(name), &boot.folder.join(name)).context(OPERATION, || format!("cannot copy {name}"))?;
                site.place(&boot.folder.join(name), name)?;
            }
        }
        sparse::copy(&saved.join(SCRATCH), &boot.folder.join(SCRATCH)).context(OPERATION, || "cannot copy the disk".to_owned())?;
        site.place_own(&boot.folder.join(SCRATCH), SCRATCH)?;
        for name in [IMAGE, STATE, MEMORY] {
            site.place(&saved.join(name), name)?;
        }
        let place = boot.start_waiting(site, &agent)?;
        Ok((place, boot.journal))
    })
    .await?;
    let api = Api { folder: place.folder.clone() };
    let request = json!({
        "snapshot_path": STATE,
        "mem_backend": { "backend_type": "File", "backend_path": MEMORY },
        "resume_vm": true,
    });
    let loaded = match listens(&place).await {
        Ok(()) => api.put("/snapshot/load", &request, PATIENCE).await,
        Err(error) => Err(error),
    };
    let Err(error) = loaded else { return Ok(place) };
    let said = console::why(&place.generation);
    let halted = place.clone();
    blocking(move || halted.halt(&journal)).await?;
    Err(match said {
        Some(said) => {
            Error::new(ErrorKind::Unavailable, OPERATION, format!("the saved machine did not come up: {said}")).with_source(error)
        }
        None => error,
    })
}

/// Waits until Firecracker listens.
async fn listens(place: &Place) -> Result<()> {
    let end = Instant::now() + CONTROL;
    while !place.folder.join(super::api::SOCKET).exists() {
        if !place.machine.is_alive() {
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, "Firecracker ended before it listened"));
        }
        if Instant::now() > end {
            return Err(Error::new(ErrorKind::TimedOut, OPERATION, format!("Firecracker does not listen within {} s", CONTROL.as_secs())));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
