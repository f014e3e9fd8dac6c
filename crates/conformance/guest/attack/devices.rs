use std::fs;

use super::{Log, race::HERE};
use crate::{
    number::MKNODAT,
    sys::{raw, text},
};

/// sys/stat.h.
const CHARACTER: usize = 0o020_000;
const BLOCK: usize = 0o060_000;

/// linux/kdev_t.h, for numbers below 256.
const fn device(major: usize, minor: usize) -> usize {
    major << 8 | minor
}

/// Tries to make and open device nodes: `MAJOR:MINOR` of the host's disks, and the dangerous ones that every kernel has.
pub(super) fn attack(log: &mut Log, disks: &[&str]) {
    let disks = disks.iter().filter_map(|text| {
        let (major, minor) = text.split_once(':')?;
        Some((BLOCK, major.parse().ok()?, minor.parse().ok()?))
    });
    // mem, kmem, port, kmsg; tty and console; loop-control, fuse, kvm, tun, rtc.
    let others = [(1, 1), (1, 2), (1, 4), (1, 11), (4, 0), (5, 1), (10, 237), (10, 229), (10, 232), (10, 200), (10, 135)];
    let all: Vec<_> = disks.chain(others.map(|(major, minor)| (CHARACTER, major, minor))).collect();
    for folder in ["/dev", "/tmp", "/root", "/dev/shm", "/var", "/mnt"] {
        for (kind, major, minor) in &all {
            let path = format!("{folder}/node-{major}-{minor}");
            let name = text(&path);
            let made = raw(MKNODAT, [HERE, name.as_ptr() as usize, kind | 0o666, device(*major, *minor), 0, 0]);
            let what = format!("device {major}:{minor} in {folder}");
            if made.is_ok() {
                log.refused(format!("open {what}"), fs::File::open(&path));
                let _ = fs::remove_file(&path);
            } else {
                log.refused(what, made);
            }
        }
    }
    for entry in fs::read_dir("/dev").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = [
            "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero",
            "console",
        ];
        log.holds(format!("/dev/{name} is harmless"), known.contains(&name.as_str()));
    }
}
