use std::path::Path;

use sandbar_core::{Error, ErrorKind, LimitReport, Limits, Result, SandboxStats};
use sandbar_guest::Scratch;
use sandbar_protocol::GuestLimits;
use serde::{Deserialize, Serialize};

use super::occupied;

const MEBIBYTE: u64 = 1 << 20;
/// Memory of a machine that nobody limits.
const MEMORY: u64 = 512 * MEBIBYTE;
/// What the kernel and the agent take of a machine's memory before anything runs in it, and what they must have at least.
const KERNEL: u64 = 96 * MEBIBYTE;
/// Memory comes in steps, so that machines of nearly the same size can share a template.
const STEP: u64 = 16 * MEBIBYTE;
/// Open files of each process where nothing is asked for.
const OPEN_FILES: u64 = 65_536;
/// Most processors that one machine gets: Firecracker's own bound.
const MOST_PROCESSORS: u32 = 32;

/// How large a machine is: what the host holds, whatever the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Shape {
    /// Bytes.
    pub(crate) memory: u64,
    pub(crate) processors: u32,
    /// Bytes of the writable disk.
    pub(crate) disk: u64,
}

/// How much a machine's disk does in a second, which its monitor holds: the disk that is written. Nothing of it is in what is saved of a machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskRate {
    /// Bytes.
    pub(crate) bytes: Option<u64>,
    /// Reads and writes.
    pub(crate) operations: Option<u64>,
}

impl DiskRate {
    pub(crate) const fn of(limits: &Limits) -> Self {
        Self { bytes: limits.disk_rate, operations: limits.disk_operations }
    }
}

impl Shape {
    /// The shape that limits ask for.
    ///
    /// # Errors
    /// `InvalidInput` for more than this build gives.
    pub(crate) fn of(limits: &Limits) -> Result<Self> {
        let memory = limits.memory.map_or(MEMORY, |memory| memory.saturating_add(KERNEL));
        // More than the host has would only get into one another's way.
        let most = std::thread::available_parallelism().map_or(1, |count| u32::try_from(count.get()).unwrap_or(MOST_PROCESSORS));
        let processors = limits.cpu_millis.map_or(1, |millis| millis.div_ceil(1000)).clamp(1, most.min(MOST_PROCESSORS));
        if memory > 1 << 40 {
            return Err(
                Error::new(ErrorKind::InvalidInput, "machine start", "a machine of this size is not offered").with("memory", memory)
            );
        }
        Ok(Self { memory: memory.next_multiple_of(STEP), processors, disk: limits.disk.unwrap_or(Scratch::DEFAULT) })
    }
}

/// What the guest's own kernel holds within that.
pub(crate) fn guest_limits(limits: &Limits) -> GuestLimits {
    GuestLimits { memory_bytes: limits.memory, processes: limits.pids.map(u64::from), cpu_millis: limits.cpu_millis.map(u64::from) }
}

/// Which limits hold, and by what.
pub(crate) fn reports(limits: &Limits) -> Vec<LimitReport> {
    let guest = "the guest's own control group (root inside can lift it)";
    let report = |limit: &str, value: Option<u64>, enforced_by: String| LimitReport { limit: limit.to_owned(), value, enforced_by };
    let within = |value: Option<u64>, machine: String| match value {
        Some(_) => format!("{guest}, within {machine}"),
        None => machine,
    };
    let shape = Shape::of(limits).unwrap_or(Shape { memory: 0, processors: 0, disk: 0 });
    let cpu = limits.cpu_millis.map(u64::from);
    let rate = |value: Option<u64>| value.map_or_else(|| "not limited".to_owned(), |_| "the machine's monitor".to_owned());
    vec![
        report("memory", limits.memory, within(limits.memory, format!("the machine's {} MiB", shape.memory / MEBIBYTE))),
        report("cpu", cpu, within(cpu, format!("the machine's {} processors", shape.processors))),
        report("pids", limits.pids.map(u64::from), limits.pids.map_or_else(|| "not limited".to_owned(), |_| guest.to_owned())),
        report("disk", limits.disk, format!("the machine's disk of {} MiB", shape.disk / MEBIBYTE)),
        report("open-files", Some(open_files(limits)), "rlimit".to_owned()),
        report("disk-rate", limits.disk_rate, rate(limits.disk_rate)),
        report("disk-operations", limits.disk_operations, rate(limits.disk_operations)),
    ]
}

/// What the host knows of a machine's usage; of what is within only the agent can tell.
pub(crate) fn usage(limits: &[LimitReport], scratch: &Path) -> SandboxStats {
    let limit = |name: &str| limits.iter().find(|report| report.limit == name).and_then(|report| report.value);
    SandboxStats {
        memory_bytes: None,
        cpu_micros: None,
        pids: None,
        memory_limit_bytes: limit("memory"),
        disk_bytes: occupied(scratch),
        disk_limit_bytes: limit("disk"),
        ..SandboxStats::default()
    }
}

/// RLIMIT_NOFILE of every command.
pub(crate) fn open_files(limits: &Limits) -> u64 {
    limits.open_files.unwrap_or(OPEN_FILES)
}
