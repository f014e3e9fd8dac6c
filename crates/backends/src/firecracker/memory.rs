use std::{
    fs::{self, File},
    io,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
    time::Duration,
};

use sandbar_core::{CheckpointKind, Context, Error, ErrorKind, Result, SavedCheckpoint};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    api::Api,
    boot::{self, Machine},
    disk,
    engine::Engine,
    wall::Place,
};
use crate::{
    machine::{agent::AgentFile, saving::SaveNote},
    vmm::{self, CONFIG, Disk, DiskRate, OwnedBoot, SAVED, SCRATCH, processor},
};

const OPERATION: &str = "memory";
/// The machine's memory, which nobody changes, and the state of everything else in it.
const MEMORY: &str = "memory";
const STATE: &str = "state";
/// How long memory may take to be written or read: some GiB on a slow disk.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a saved machine is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Bound {
    firecracker: String,
    /// The processor's model.
    processor: String,
    /// The host's kernel.
    kernel: String,
}

impl Bound {
    /// As things are for a Firecracker that runs here.
    fn of(api: &Api<'_>) -> Result<Self> {
        Ok(Self { firecracker: api.version()?, processor: processor(), kernel: kernel() })
    }

    fn read(record: &Value) -> Result<Self> {
        serde_json::from_value(record.clone())
            .map_err(|error| Error::new(ErrorKind::Corrupt, OPERATION, "the record of the saved memory cannot be read").with_source(error))
    }

    /// # Errors
    /// `Conflict`, with both.
    fn require(&self, here: &Self) -> Result<()> {
        if self == here {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            OPERATION,
            "the memory was saved by another Firecracker, on another processor or kernel than are here",
        )
        .with("saved by", self.describe())
        .with("here", here.describe())
        .with_hint("restore its disk alone: --without-memory"))
    }

    fn describe(&self) -> String {
        format!("Firecracker {} on {}, Linux {}", self.firecracker, self.processor, self.kernel)
    }
}

/// The release of the host's kernel.
pub(super) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Saves a machine whose agent is quiet, into a folder that stays as it is from then on. The machine goes on, whatever happens, unless it was booted to
/// become a template. The writable layer is saved as well, for those who begin anew on the disk. Blocks.
///
/// # Errors
/// Of the machine or the file system.
pub(super) fn save(place: &Place, folder: &Path, into: &Path) -> Result<SavedCheckpoint> {
    // Clients come back as soon as it goes on.
    let noted = SaveNote::of(folder).until_dropped();
    let machine: Machine = vmm::read_record(folder)?;
    // A template's is empty.
    let fetched = if machine.is_template { None } else { Some(disk::of_awake(place, into)?) };
    place.freeze()?;
    let written = write(place, folder, into);
    let thawed = if machine.is_template { Ok(()) } else { place.thaw() };
    drop(noted);
    let bound = written?;
    thawed?;
    let memory = File::options().read(true).write(true).open(into.join(MEMORY));
    // From then on nobody changes it.
    let finished = memory.and_then(|memory| vmm::dig(&memory).and_then(|()| memory.set_permissions(fs::Permissions::from_mode(0o444))));
    finished.context(OPERATION, || "cannot make holes in the saved memory".to_owned())?;
    vmm::write_record(&Machine { is_template: false, ..machine }, into)?;
    let bytes = [STATE, MEMORY, SCRATCH].iter().filter_map(|name| vmm::occupied(&into.join(name))).sum::<u64>()
        + fetched.as_ref().map_or(0, |fetched| fetched.bytes);
    let record = serde_json::to_value(bound)
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the record cannot be written as JSON").with_source(error))?;
    Ok(SavedCheckpoint { kind: CheckpointKind::Memory, bytes, files: fetched.map_or(0, |fetched| fetched.files), record })
}

/// Writes disks, memory and state of a machine that stands still.
fn write(place: &Place, folder: &Path, into: &Path) -> Result<Bound> {
    for name in [SCRATCH, CONFIG, SAVED] {
        if folder.join(name).exists() {
            copy(&folder.join(name), &into.join(name))?;
        }
    }
    for name in [STATE, MEMORY] {
        let file = folder.join(name);
        // Of a save that came to no end.
        let _ = fs::remove_file(place.room.folder.join(name));
        let _ = fs::remove_file(&file);
        let made = File::options().write(true).create_new(true).mode(0o600).open(&file);
        made.context(OPERATION, || format!("cannot make {}", file.display()))?;
        place.room.lend(&file, name)?;
    }
    let api = Api(&place.room.folder);
    let request = json!({ "snapshot_type": "Full", "snapshot_path": STATE, "mem_file_path": MEMORY });
    let written = api.put("/snapshot/create", &request, PATIENCE);
    for name in [STATE, MEMORY] {
        let file = folder.join(name);
        place.room.take_back(&file, name)?;
        if written.is_ok() {
            keep(&file, &into.join(name))?;
        } else {
            let _ = fs::remove_file(&file);
        }
    }
    written.and_then(|()| Bound::of(&api))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    vmm::copy(from, to).context(OPERATION, || format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Moves a file, also to another file system.
fn keep(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => copy(from, to).map(|()| drop(fs::remove_file(from))),
        renamed => renamed.context(OPERATION, || format!("cannot keep {}", to.display())),
    }
}

/// Brings up a machine from what [`save`] has left, in a new generation's folder. Blocks.
///
/// # Errors
/// `Conflict` when it was saved by another Firecracker, on another processor or kernel; of the machine.
pub(super) fn load((saved, record): (&Path, &Value), boot: &OwnedBoot, engine: &Engine, agent: &AgentFile) -> Result<Place> {
    let bound = Bound::read(record)?;
    let then: Machine = vmm::read_record(saved)?;
    for name in [SCRATCH, CONFIG] {
        copy(&saved.join(name), &boot.folder.join(name))?;
    }
    let within = |disk: Disk| if disk.path == Path::new(SAVED) { Disk { path: saved.join(SAVED), ..disk } } else { disk };
    let is_bound_otherwise = then.rate != DiskRate::of(&boot.spec.limits);
    let disks: Vec<Disk> = then.disks.iter().cloned().map(within).collect();
    vmm::require(disks.iter().map(|disk| &disk.path))?;
    let machine =
        Machine { name: Machine::name(boot), user: engine.jail_user(boot.ids), disks, rate: DiskRate::of(&boot.spec.limits), ..then };
    vmm::write_record(&machine, &boot.folder)?;
    let start = boot::start(boot, engine, agent);
    let (room, jail) = start.room(&machine)?;
    for name in [STATE, MEMORY] {
        room.show(&saved.join(name), name)?;
    }
    let place = start.run(&machine, (room, jail), &[])?;
    let api = Api(&place.room.folder);
    let loaded = api.wait(|| place.machine.is_alive()).and_then(|()| bound.require(&Bound::of(&api)?)).and_then(|()| {
        let memory = json!({ "backend_type": "File", "backend_path": MEMORY });
        api.put("/snapshot/load", &json!({ "snapshot_path": STATE, "mem_backend": memory, "resume_vm": true }), PATIENCE)?;
        // What was saved has the bounds that the machine had.
        if is_bound_otherwise { machine.limit_disk(&api) } else { Ok(()) }
    });
    let Err(error) = loaded else { return Ok(Place { limits: vmm::reports(&boot.spec.limits), ..place }) };
    let reason = if place.machine.is_alive() { None } else { place.said() };
    place.halt(&boot.journal)?;
    Err(match reason {
        Some(reason) => {
            Error::new(ErrorKind::Unavailable, OPERATION, format!("the saved machine did not come up: {reason}")).with_source(error)
        }
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_another_firecracker_processor_or_kernel_is_refused_with_both() {
        let here = Bound { firecracker: "1.12.1".to_owned(), processor: "this one".to_owned(), kernel: "6.1".to_owned() };
        let record = serde_json::to_value(&here).unwrap();
        Bound::read(&record).unwrap().require(&here).unwrap();
        for (field, other) in [("firecracker", "1.13.0"), ("processor", "that one"), ("kernel", "6.2")] {
            let mut record = record.clone();
            record[field] = other.into();
            let error = Bound::read(&record).unwrap().require(&here).unwrap_err();
            assert!(error.kind() == ErrorKind::Conflict && error.to_string().contains(other), "{error}");
        }
        assert_eq!(Bound::read(&Value::Null).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
