use std::{
    fs::{self, OpenOptions},
    io,
    path::Path,
};

use super::Log;

/// Files that must not be opened for writing. Nothing is ever written.
const WRITES: [&str; 19] = [
    "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/sysrq",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/irq/default_smp_affinity",
    "/proc/bus/pci",
    "/proc/acpi/wakeup",
    "/proc/scsi/scsi",
    "/proc/mtrr",
    "/proc/1/mem",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
];

/// Files that must not tell anything.
const READS: [&str; 12] = [
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/keys",
    "/proc/timer_list",
    "/proc/sched_debug",
    "/proc/1/environ",
    "/proc/1/mem",
    "/proc/1/maps",
    "/proc/1/auxv",
    "/sys/firmware/dmi/tables/DMI",
    "/dev/kmsg",
    "/dev/mem",
];

pub(super) fn attack(log: &mut Log) {
    for path in WRITES {
        log.refused(format!("open {path} for writing"), OpenOptions::new().write(true).open(path));
    }
    for path in READS {
        match read_some(path) {
            Ok(0) => log.holds(format!("{path} is empty"), true),
            Ok(bytes) => log.breach(format!("read {path}"), format!("{bytes} bytes")),
            Err(error) => log.refused(format!("read {path}"), Err::<(), _>(error)),
        }
    }
    for folder in ["/proc/sys", "/sys", "/proc/irq", "/proc/bus", "/proc/fs", "/proc/acpi", "/proc/scsi"] {
        let mut tried = 0;
        walk(log, Path::new(folder), 0, &mut tried);
        log.holds(format!("{tried} files of {folder} were tried"), true);
    }
    lower_oom_score(log);
    for path in ["/proc/self/uid_map", "/proc/self/gid_map", "/proc/1/uid_map", "/proc/1/gid_map"] {
        log.refused(format!("write {path}"), fs::write(path, "0 0 4294967295\n"));
    }
    // Its own agent it may give away to the kernel's memory killer; it may not save it at the host's cost.
    log.refused("lower the agent's oom score", fs::write("/proc/1/oom_score_adj", "-1000"));
}

fn read_some(path: &str) -> io::Result<usize> {
    use std::io::Read;
    // A kernel log would block at its end.
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = OpenOptions::new().read(true).custom_flags(0o4000).open(path)?;
    file.read(&mut [0; 64])
}

/// Tries every file below a folder.
fn walk(log: &mut Log, folder: &Path, depth: u32, tried: &mut u32) {
    if depth > 6 || *tried > 6000 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            walk(log, &path, depth + 1, tried);
        } else if kind.is_file() {
            *tried += 1;
            if OpenOptions::new().write(true).open(&path).is_ok() {
                log.breach("open for writing", path.display());
            }
        }
    }
}

/// A process may say that it should be ended sooner, never that the host's should.
fn lower_oom_score(log: &mut Log) {
    let before: i32 = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    log.refused("lower the oom score", fs::write("/proc/self/oom_score_adj", "-1000"));
    let after: i32 = fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    log.holds(format!("the oom score is {after}"), after >= before);
}
