use std::{fs, io, os::fd::AsRawFd, path::Path};

use super::Log;
use crate::{
    number::*,
    sys::{in_child, raw, text},
};

/// Tries to read the host's files; `secret` is in all of them.
pub(super) fn attack(log: &mut Log, secret: &str, paths: &[&str]) {
    let up = "../".repeat(60);
    for path in paths {
        let bare = path.trim_start_matches('/');
        let ways = [
            (*path).to_owned(),
            format!("/{up}{bare}"),
            format!("{up}{bare}"),
            format!("/proc/1/root/{bare}"),
            format!("/proc/1/root/{up}{bare}"),
            format!("/proc/1/cwd/{up}{bare}"),
            format!("/proc/self/root/{up}{bare}"),
            format!("/proc/self/cwd/{up}{bare}"),
            format!("/proc/self/task/self/root/{up}{bare}"),
            format!("/dev/fd/../../../{up}{bare}"),
            format!("/usr/{up}{bare}"),
            format!("/dev/shm/{up}{bare}"),
        ];
        for way in ways {
            read(log, &way, secret);
        }
        for fd in 0..64 {
            read(log, &format!("/proc/1/fd/{fd}/{up}{bare}"), secret);
            read(log, &format!("/proc/self/fd/{fd}/{up}{bare}"), secret);
        }
        let _ = fs::remove_file("/tmp/way");
        if std::os::unix::fs::symlink(path, "/tmp/way").is_ok() {
            read(log, "/tmp/way", secret);
        }
        chroot_walk(log, bare, secret);
        by_handle(log);
    }
}

fn read(log: &mut Log, way: &str, secret: &str) {
    match fs::read(way) {
        Ok(content) if String::from_utf8_lossy(&content).contains(secret) => log.breach(format!("read {way}"), "it holds the secret"),
        Ok(_) => log.holds(format!("{way} is the sandbox's own"), true),
        Err(error) => log.refused(format!("read {way}"), Err::<(), _>(error)),
    }
}

/// A descriptor of the old root survives a chroot into a folder: the oldest way out.
fn chroot_walk(log: &mut Log, bare: &str, secret: &str) {
    let walk = || -> io::Result<bool> {
        fs::create_dir_all("/tmp/cell")?;
        let root = fs::File::open("/")?;
        let cell = text("/tmp/cell");
        raw(CHROOT, [cell.as_ptr() as usize, 0, 0, 0, 0, 0])?;
        raw(FCHDIR, [root.as_raw_fd() as usize, 0, 0, 0, 0, 0])?;
        for _ in 0..100 {
            std::env::set_current_dir("..")?;
        }
        let dot = text(".");
        raw(CHROOT, [dot.as_ptr() as usize, 0, 0, 0, 0, 0])?;
        Ok(fs::read(Path::new("/").join(bare)).is_ok_and(|content| String::from_utf8_lossy(&content).contains(secret)))
    };
    let outcome = in_child(|| u8::from(walk().unwrap_or(false)));
    log.holds(format!("chroot and walk to {bare}"), outcome.is_ok_and(|code| code == 0));
}

/// A file by its inode number: 2 is the root of most file systems of disks (the way of `shocker.c`).
fn by_handle(log: &mut Log) {
    let Ok(anchor) = fs::File::open("/etc/hosts").or_else(|_| fs::File::open("/")) else { return };
    for inode in [1u32, 2, 64, 128, 256] {
        // struct file_handle: bytes, type (FILEID_INO32_GEN), inode, generation.
        let handle = [8u32, 1, inode, 0];
        let outcome = raw(OPEN_BY_HANDLE_AT, [anchor.as_raw_fd() as usize, handle.as_ptr() as usize, 0, 0, 0, 0]);
        log.refused(format!("open inode {inode}"), outcome);
    }
}
