use std::fs;

use super::{Log, race::HERE};
use crate::{
    number::*,
    sys::{raw, text},
};

/// linux/mount.h.
const READ_ONLY_BIND_REMOUNT: usize = 0x1 | 0x20 | 0x1000;
const BIND: usize = 0x1000;
const WRITABLE_REMOUNT: usize = 0x20 | 0x1000;
const REC_BIND: usize = 0x1000 | 0x4000;
const MOVE: usize = 0x2000;
const SHARED: usize = 0x10_0000;
const OPEN_TREE_CLONE: usize = 1;
const DETACH: usize = 2;

fn mount(source: &str, target: &str, kind: &str, flags: usize, data: &str) -> std::io::Result<usize> {
    let [source, target, kind, data] = [source, target, kind, data].map(text);
    raw(MOUNT, [source.as_ptr() as usize, target.as_ptr() as usize, kind.as_ptr() as usize, flags, data.as_ptr() as usize, 0])
}

pub(super) fn attack(log: &mut Log) {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let _ = fs::create_dir_all("/tmp/at");
    for kind in [
        "tmpfs",
        "proc",
        "sysfs",
        "devtmpfs",
        "devpts",
        "cgroup",
        "cgroup2",
        "debugfs",
        "tracefs",
        "securityfs",
        "overlay",
        "mqueue",
        "bpf",
        "fuse",
    ] {
        log.refused(format!("mount {kind}"), mount("none", "/tmp/at", kind, 0, ""));
    }
    log.refused("mount cgroup with a release agent", mount("none", "/tmp/at", "cgroup", 0, "memory,release_agent=/tmp/agent"));
    log.refused("bind /", mount("/", "/tmp/at", "none", BIND, ""));
    log.refused("bind / with everything", mount("/", "/tmp/at", "none", REC_BIND, ""));
    log.refused("bind /proc/sys over itself", mount("/proc/sys", "/proc/sys", "none", BIND, ""));
    for place in ["/usr", "/proc/sys", "/sys", "/proc", "/"] {
        log.refused(format!("remount {place} writable"), mount("none", place, "none", WRITABLE_REMOUNT, ""));
        log.refused(format!("remount {place}"), mount("none", place, "none", READ_ONLY_BIND_REMOUNT, ""));
        log.refused(format!("share {place}"), mount("none", place, "none", SHARED, ""));
        log.refused(format!("move {place}"), mount(place, "/tmp/at", "none", MOVE, ""));
    }
    for line in before.lines() {
        let Some(place) = line.split(' ').nth(4) else { continue };
        let path = text(place);
        log.refused(format!("unmount {place}"), raw(UMOUNT2, [path.as_ptr() as usize, DETACH, 0, 0, 0, 0]));
    }
    let (here, at) = (text("/"), text("/tmp/at"));
    log.refused("pivot_root", raw(PIVOT_ROOT, [at.as_ptr() as usize, at.as_ptr() as usize, 0, 0, 0, 0]));
    log.refused("pivot_root in place", raw(PIVOT_ROOT, [here.as_ptr() as usize, here.as_ptr() as usize, 0, 0, 0, 0]));
    for kind in ["tmpfs", "proc", "cgroup2", "overlay"] {
        let kind_text = text(kind);
        log.refused(format!("fsopen {kind}"), raw(FSOPEN, [kind_text.as_ptr() as usize, 0, 0, 0, 0, 0]));
    }
    log.refused("fspick", raw(FSPICK, [HERE, here.as_ptr() as usize, 0, 0, 0, 0]));
    log.refused("open_tree with a clone", raw(OPEN_TREE, [HERE, here.as_ptr() as usize, OPEN_TREE_CLONE, 0, 0, 0]));
    log.refused("move_mount", raw(MOVE_MOUNT, [HERE, here.as_ptr() as usize, HERE, at.as_ptr() as usize, 0, 0]));
    // struct mount_attr: set, clear (MOUNT_ATTR_RDONLY), propagation, user namespace.
    let attributes = [0u64, 1, 0, 0];
    let usr = text("/usr");
    log.refused("mount_setattr", raw(MOUNT_SETATTR, [HERE, usr.as_ptr() as usize, 0, attributes.as_ptr() as usize, 32, 0]));
    let after = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    log.holds("the mounts are what they were", before == after && !before.is_empty());
    log.refused("write to /usr", fs::write("/usr/written", "x"));
    log.refused("write to /usr/bin/env", fs::OpenOptions::new().append(true).open("/usr/bin/env"));
}
