//! `container` with the real agent, as root and as a plain user: what is particular to this wall. What every provider does is the
//! conformance suite's.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod life;
mod limits;
mod wall;
mod world;

use std::process::Command;

/// Everything here once more as a plain user without privileges, when this runs as root.
#[test]
fn a_plain_user_can_do_it_too() {
    if rustix::process::geteuid().is_root() {
        again_as_user("true");
    }
}

/// And once more as one with subordinate ids, which the files of a private mount namespace give.
#[test]
fn a_user_with_subordinate_ids_can_do_it_too() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    if !std::path::Path::new("/usr/bin/newuidmap").exists() {
        eprintln!("newuidmap is not installed");
        return;
    }
    let files = "set -e; cp /etc/passwd $TMPDIR/passwd; echo sbtest:x:64321:64321::/tmp:/bin/sh >> $TMPDIR/passwd; echo sbtest:900000000:65536 > $TMPDIR/ids
        mount --bind $TMPDIR/passwd /etc/passwd; mount --bind $TMPDIR/ids /etc/subuid; mount --bind $TMPDIR/ids /etc/subgid";
    again_as_user(files);
}

fn again_as_user(before: &str) {
    let home = tempfile::Builder::new().prefix("sandbar-user-").tempdir_in("/var/tmp").unwrap();
    let (uid, gid) = (rustix::fs::Uid::from_raw(64_321), rustix::fs::Gid::from_raw(64_321));
    rustix::fs::chown(home.path(), Some(uid), Some(gid)).unwrap();
    let line = format!("{before}; exec setpriv --reuid=64321 --regid=64321 --clear-groups \"$0\"");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &line])
        .arg(std::env::current_exe().unwrap())
        .env("TMPDIR", home.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
}
