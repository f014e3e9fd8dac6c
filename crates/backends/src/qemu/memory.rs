use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use sandbar_core::{CheckpointKind, Context, Error, ErrorKind, Journal, Lifetime, NoJournal, Result, SavedCheckpoint};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Accelerator, boot,
    command::{Machine, Memory},
    confinement, disk, info,
    qmp::Qmp,
    wall::Place,
};
use crate::{
    machine::{agent::AgentFile, process::HostProcess, saving::SaveNote},
    vmm::{self, CONFIG, Disk, DiskRate, OwnedBoot, SAVED, SCRATCH, processor},
};

const OPERATION: &str = "memory";
/// The machine's memory, which nobody changes, and the state of everything else in it.
pub(super) const RAM: &str = "ram.img";
const STATE: &str = "state";
/// Memory and everything else in one stream, before they are taken apart.
const STREAM: &str = "stream";
/// How long a state may take to be written or read: some GiB of memory on a slow disk.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(2);
const CONTROL: Duration = Duration::from_secs(10);

/// What a saved machine is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bound {
    /// QEMU's major and minor version.
    pub(super) qemu: String,
    pub(super) accelerator: Accelerator,
    /// The processor's model, where the machine has the host's own.
    pub(super) processor: Option<String>,
}

impl Bound {
    /// As things are for a machine that runs here.
    fn of(machine: &Machine, qmp: &Qmp) -> Self {
        let processor = (machine.accelerator == Accelerator::Kvm).then(processor);
        Self { qemu: qmp.version.clone(), accelerator: machine.accelerator, processor }
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
        Err(Error::new(ErrorKind::Conflict, OPERATION, "the memory was saved by another QEMU or on another processor than are here")
            .with("saved by", then.describe())
            .with("here", self.describe())
            .with_hint("restore its disk alone: --without-memory"))
    }

    fn describe(&self) -> String {
        let processor = self.processor.as_deref().map(|processor| format!(" on {processor}")).unwrap_or_default();
        format!("QEMU {} with {}{processor}", self.qemu, self.accelerator.name())
    }
}

/// Saves a machine whose agent is quiet, into a folder that stays as it is from then on. The machine goes on, whatever happens, unless it was booted to
/// become a template. The writable layer is saved as well, for those who begin anew on the disk. Blocks.
///
/// # Errors
/// Of the machine or the file system.
pub(super) fn save(place: &Place, folder: &Path, into: &Path, agent: &AgentFile) -> Result<SavedCheckpoint> {
    // Clients come back as soon as it goes on.
    let noted = SaveNote::of(folder).until_dropped();
    let machine: Machine = vmm::read_record(folder)?;
    let is_template = matches!(machine.memory, Memory::Shared(_));
    // A template's is empty.
    let fetched = if is_template { None } else { Some(disk::of_awake(place, into)?) };
    place.freeze()?;
    let written = write(place, &machine, folder, into);
    // A template's memory is the image's from now on: it must not go on.
    let thawed = if is_template { Ok(()) } else { place.thaw() };
    drop(noted);
    let bound = written?;
    thawed?;
    if !is_template {
        take_apart(&machine, into, agent)?;
    }
    vmm::write_record(&Machine { memory: Memory::View(RAM.into()), ..machine }, into)?;
    let bytes = [RAM, STATE, SCRATCH].iter().filter_map(|name| vmm::occupied(&into.join(name))).sum::<u64>()
        + fetched.as_ref().map_or(0, |fetched| fetched.bytes);
    let record = serde_json::to_value(bound)
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the record cannot be written as JSON").with_source(error))?;
    Ok(SavedCheckpoint { kind: CheckpointKind::Memory, bytes, files: fetched.map_or(0, |fetched| fetched.files), record })
}

/// Writes disks, memory and state of a machine that stands still.
fn write(place: &Place, machine: &Machine, folder: &Path, into: &Path) -> Result<Bound> {
    let mut qmp = Qmp::connect(folder, CONTROL, &place.machine)?;
    let shared = match &machine.memory {
        Memory::Shared(path) => Some(folder.join(path)),
        Memory::Anonymous | Memory::View(_) => None,
    };
    for name in [SCRATCH, CONFIG, SAVED] {
        if folder.join(name).exists() {
            copy(&folder.join(name), &into.join(name))?;
        }
    }
    if let Some(ram) = &shared {
        fs::hard_link(ram, into.join(RAM)).context(OPERATION, unkept)?;
    }
    migrate(&mut qmp, &into.join(if shared.is_some() { STATE } else { STREAM }), shared.is_some())?;
    if shared.is_some() {
        confinement::take_back(machine, &[into.join(RAM)]).context(OPERATION, unkept)?;
    }
    Ok(Bound::of(machine, &qmp))
}

fn unkept() -> String {
    "cannot keep the file of the memory".to_owned()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    vmm::copy(from, to).context(OPERATION, || format!("cannot copy {} to {}", from.display(), to.display()))
}

/// Has a machine write its state into a file, without the memory that is in a file already if there is such.
fn migrate(qmp: &mut Qmp, file: &Path, ignore_shared: bool) -> Result<()> {
    let state = File::options().write(true).create_new(true).mode(0o600).open(file);
    let state = state.context(OPERATION, || format!("cannot make {}", file.display()))?;
    ignore_memory(qmp, ignore_shared)?;
    // It is as fast as the disk, not as a network.
    qmp.execute("migrate-set-parameters", &json!({ "max-bandwidth": 1_u64 << 40 }))?;
    qmp.give(STATE, &state)?;
    qmp.execute("migrate", &json!({ "uri": format!("fd:{STATE}") }))?;
    let end = Instant::now() + PATIENCE;
    loop {
        let told = qmp.execute("query-migrate", &Value::Null)?;
        let said = told.get("error-desc").and_then(Value::as_str).unwrap_or("it says no more").to_owned();
        match told.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(()),
            Some("failed" | "cancelled") => {
                return Err(Error::new(ErrorKind::Unavailable, OPERATION, "the machine cannot write its state").with("said", said));
            }
            _ if Instant::now() > end => return Err(Error::new(ErrorKind::TimedOut, OPERATION, "the machine does not write its state")),
            _ => std::thread::sleep(LOOK),
        }
    }
}

fn ignore_memory(qmp: &mut Qmp, state: bool) -> Result<()> {
    let capability = json!({ "capabilities": [{ "capability": "x-ignore-shared", "state": state }] });
    qmp.execute("migrate-set-capabilities", &capability).map(drop)
}

/// Has a waiting machine read its state.
fn read(qmp: &mut Qmp, file: &Path, ignore_shared: bool) -> Result<()> {
    let state = File::open(file).context(OPERATION, || format!("cannot open {}", file.display()))?;
    ignore_memory(qmp, ignore_shared)?;
    qmp.give(STATE, &state)?;
    qmp.execute("migrate-incoming", &json!({ "uri": format!("fd:{STATE}") }))?;
    let end = Instant::now() + PATIENCE;
    loop {
        let told = qmp.execute("query-status", &Value::Null)?;
        match told.get("status").and_then(Value::as_str) {
            Some("inmigrate") if Instant::now() > end => {
                return Err(Error::new(ErrorKind::TimedOut, OPERATION, "the machine does not read its state"));
            }
            Some("inmigrate") => std::thread::sleep(LOOK),
            Some("paused" | "prelaunch") => return Ok(()),
            other => {
                return Err(
                    Error::new(ErrorKind::Corrupt, OPERATION, "the machine cannot read its state").with("status", other.unwrap_or("none"))
                );
            }
        }
    }
}

/// Makes a file of the memory and one of the rest out of a stream of both: a machine that never runs reads the one and writes the other. So all that begin
/// from it later see one file of memory, and pay for what they change.
fn take_apart(machine: &Machine, into: &Path, agent: &AgentFile) -> Result<()> {
    let journal: Arc<dyn Journal> = Arc::new(NoJournal);
    let machine = Machine { memory: Memory::Shared(RAM.into()), ..machine.clone() };
    File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(into.join(RAM))
        .and_then(|file| file.set_len(machine.shape.memory))
        .context(OPERATION, || "cannot make the file of the memory".to_owned())?;
    // It ends with this process at the latest.
    let process = confinement::launch(&machine, agent.path()?, into, Lifetime::Owned, true, &journal)?;
    let done = Qmp::connect(into, CONTROL, &process).and_then(|mut qmp| {
        read(&mut qmp, &into.join(STREAM), false)?;
        migrate(&mut qmp, &into.join(STATE), true)
    });
    vmm::end(&process, boot::PATIENCE).context(OPERATION, || "cannot end the machine that took the memory apart".to_owned())?;
    confinement::take_back(&machine, &[into.join(RAM), into.join(SCRATCH)]).context(OPERATION, unkept)?;
    boot::clear(into);
    // On a failure they are what has filled the disk, or why.
    done?;
    for name in [STREAM, boot::LOG] {
        let _ = fs::remove_file(into.join(name));
    }
    Ok(())
}

/// Brings up a machine from what [`save`] has left, in a new generation's folder. Blocks.
///
/// # Errors
/// `Conflict` when it was saved by another QEMU or on another processor; of the machine.
pub(super) fn load(
    (saved, record): (&Path, &Value),
    accelerator: Accelerator,
    boot: &OwnedBoot,
    agent: &AgentFile,
) -> Result<(HostProcess, HostProcess)> {
    let (folder, journal) = (boot.folder.as_path(), &boot.journal);
    let then: Machine = vmm::read_record(saved)?;
    for name in [SCRATCH, CONFIG] {
        copy(&saved.join(name), &folder.join(name))?;
    }
    let within = |disk: Disk| if disk.path == Path::new(SAVED) { Disk { path: saved.join(SAVED), ..disk } } else { disk };
    let program = info::program().unwrap_or_else(|| then.program.clone());
    let disks: Vec<Disk> = then.disks.iter().cloned().map(within).collect();
    vmm::require([&then.kernel, &then.initramfs].into_iter().chain(disks.iter().map(|disk| &disk.path)))?;
    let machine = Machine {
        program,
        accelerator,
        disks,
        memory: Memory::View(absolute(&saved.join(RAM))),
        rate: DiskRate::of(&boot.spec.limits),
        user: confinement::user(boot.ids),
        ..then
    };
    vmm::write_record(&machine, folder)?;
    let (process, pipe) = super::boot::start(&machine, agent, folder, boot.lifetime, true, journal)?;
    let loaded = Qmp::connect(folder, CONTROL, &process).and_then(|mut qmp| {
        Bound::of(&machine, &qmp).check(record)?;
        read(&mut qmp, &saved.join(STATE), true)?;
        qmp.execute("cont", &Value::Null).map(drop)
    });
    if let Err(error) = loaded {
        let reason = if process.is_alive() { None } else { super::boot::said(folder) };
        let place = Place { machine: process, pipe, folder: folder.to_owned(), limits: Vec::new(), shares: vmm::Shares::default() };
        place.halt(journal)?;
        return Err(match reason {
            Some(reason) => {
                Error::new(ErrorKind::Unavailable, OPERATION, format!("the saved machine did not come up: {reason}")).with_source(error)
            }
            None => error,
        });
    }
    Ok((process, pipe))
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
