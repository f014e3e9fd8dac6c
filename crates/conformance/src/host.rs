//! What this host shows of processes, mounts and resources.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
};

use sandbar_core::Resource;

/// Field 3 (state) and field 22 (start time) of `/proc/PID/stat`; the command may hold spaces and parentheses, so count from its end.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// When a process was started, in ticks; `None` when there is none, or only its zombie.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    stat(pid).filter(|(state, _)| !matches!(state, 'Z' | 'X')).map(|(_, start)| start)
}

/// Whether a resource is there now.
pub(crate) fn exists(resource: &Resource) -> bool {
    match resource {
        Resource::Process { pid, start_time: started, .. } => start_time(*pid) == Some(*started),
        Resource::Cgroup { path } | Resource::Folder { path } => path.exists(),
        Resource::Loop { backing } => loop_is_attached(backing),
        _ => false,
    }
}

fn loop_is_attached(backing: &Path) -> bool {
    let Ok(devices) = fs::read_dir("/sys/block") else { return false };
    devices.flatten().any(|device| {
        fs::read_to_string(device.path().join("loop/backing_file"))
            .is_ok_and(|text| Path::new(text.trim_end().trim_end_matches(" (deleted)")) == backing)
    })
}

/// Mounts of this process's namespace that mention a path.
pub(crate) fn mounts_of(path: &Path) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let needle = path.display().to_string();
    table.lines().filter(|line| line.contains(&needle)).map(str::to_owned).collect()
}

/// An argument that no other process of this host has, also when other providers run the same case at the same time: what `sleep` takes for most of two months.
pub(crate) fn marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{}.{}", 4_000_000 + std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Living processes whose command line holds `marker`, this one and its ancestors' shells excepted by the marker's being unique.
pub(crate) fn processes_with(marker: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| start_time(*pid).is_some())
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == marker.as_bytes()))
        })
        .collect()
}

/// Resident memory of a process in KiB.
pub(crate) fn resident_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches(" kB").trim().parse().ok()
}

/// Waits until so many processes have this argument; false when that takes too long. A command has started when exec cannot fail any more, which
/// is a moment before its arguments can be read.
pub(crate) async fn appear(marker: &str, count: usize) -> bool {
    let seen = async {
        while processes_with(marker).len() < count {
            tokio::time::sleep(crate::sandbox::POLL).await;
        }
    };
    tokio::time::timeout(crate::sandbox::SOON, seen).await.is_ok()
}
