use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use sandbar_protocol::GuestLimits;

/// The group of everything but the agent, below the root of the guest's only hierarchy.
const GROUP: &str = "/sys/fs/cgroup/sandbar";
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
/// How long everything may take to stand still: as long as a system call that cannot be interrupted.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(1);
/// The kernel's own period.
const PERIOD_MICROS: u64 = 100_000;

/// A control group of the guest's own kernel. Root inside can leave it; what it is for is order, the wall is the machine.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    /// Writing `0` there puts the writer in.
    door: Arc<OwnedFd>,
    /// Tells how many processes are in; `None` where the kernel does not count them.
    count: Option<Arc<OwnedFd>>,
}

/// How a command gets into the group.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    group: Group,
    /// Most processes. The kernel lets nobody be born over the limit, but lets anybody in who is.
    most: Option<u64>,
}

impl Entry {
    pub(crate) fn new(group: &Group, limits: Option<&GuestLimits>) -> Self {
        Self { group: group.clone(), most: limits.and_then(|limits| limits.processes) }
    }

    /// Puts the calling process in; for a child that must not allocate.
    ///
    /// # Errors
    /// `AGAIN` when there is no room; of the kernel.
    pub(crate) fn enter(&self) -> rustix::io::Result<()> {
        rustix::io::write(&self.group.door, b"0")?;
        let (Some(most), Some(count)) = (self.most, &self.group.count) else { return Ok(()) };
        let mut digits = [0; 24];
        let length = rustix::io::pread(count, &mut digits, 0)?;
        let number = digits[..length].iter().take_while(|byte| byte.is_ascii_digit());
        let current = number.fold(0_u64, |number, digit| number.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
        if current > most { Err(Errno::AGAIN) } else { Ok(()) }
    }
}

impl Group {
    /// Makes the group; `None` where the kernel has none.
    pub(super) fn make() -> Option<Self> {
        for controller in CONTROLLERS {
            // What the kernel lacks cannot be limited.
            let _ = fs::write("/sys/fs/cgroup/cgroup.subtree_control", format!("+{controller}"));
        }
        match fs::create_dir(GROUP) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return None,
            _ => {}
        }
        let door = rustix::fs::open(format!("{GROUP}/cgroup.procs"), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
        let count = rustix::fs::open(format!("{GROUP}/pids.current"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Some(Self { door: Arc::new(door.ok()?), count: count.ok().map(Arc::new) })
    }

    /// Limits the group. What the kernel cannot limit is left alone: the host says which limits hold.
    pub(crate) fn limit(limits: &GuestLimits) {
        let number = |value: Option<u64>| value.map_or_else(|| "max".to_owned(), |value| value.to_string());
        let _ = write("memory.max", &number(limits.memory_bytes));
        // Swap is none, where it is counted.
        let _ = write("memory.swap.max", "0");
        let _ = write("pids.max", &number(limits.processes));
        let cpu = limits.cpu_millis.map(|millis| millis.saturating_mul(PERIOD_MICROS / 1000));
        let _ = write("cpu.max", &format!("{} {PERIOD_MICROS}", number(cpu)));
    }
}

/// Has everything stand still while the result is held.
///
/// # Errors
/// Of the kernel, or when something does not stand still.
pub(super) fn freeze() -> io::Result<Frozen> {
    let frozen = Frozen;
    write("cgroup.freeze", "1")?;
    let end = Instant::now() + PATIENCE;
    while !fs::read_to_string(Path::new(GROUP).join("cgroup.events"))?.lines().any(|line| line == "frozen 1") {
        if Instant::now() > end {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the processes do not stand still"));
        }
        std::thread::sleep(LOOK);
    }
    Ok(frozen)
}

/// Thaws when it is dropped.
pub(super) struct Frozen;

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = write("cgroup.freeze", "0");
    }
}

fn write(name: &str, value: &str) -> io::Result<()> {
    File::options().write(true).open(Path::new(GROUP).join(name))?.write_all(value.as_bytes())
}
