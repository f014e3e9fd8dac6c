use std::{env, fs, io, os::unix::fs::PermissionsExt, process::Command};

use super::Log;
use crate::{
    number::{CAPSET, PRLIMIT, SCHED_SETSCHEDULER, SETGROUPS, SETPRIORITY, SETRESGID, SETRESUID},
    say,
    sys::{in_child, process_control, raw},
};

/// linux/prctl.h.
const GET_NO_NEW_PRIVS: i32 = 39;
const SET_NO_NEW_PRIVS: i32 = 38;
const CAP_AMBIENT: i32 = 47;
const AMBIENT_RAISE: usize = 2;
/// `CAP_SYS_ADMIN`, linux/capability.h.
const SYS_ADMIN: usize = 21;
/// Some user that is not root.
const OTHER: usize = 1000;

pub(super) fn attack(log: &mut Log) {
    log.holds("no_new_privs is set", process_control(GET_NO_NEW_PRIVS, 0, 0).is_ok_and(|value| value == 1));
    log.refused("unset no_new_privs", process_control(SET_NO_NEW_PRIVS, 0, 0));
    // Version 3, this thread; effective, permitted and inheritable, low and high.
    let header = [0x2008_0522u32, 0];
    for (name, sets) in [("all capabilities", [u32::MAX; 6]), ("CAP_SYS_ADMIN", [1 << SYS_ADMIN, 1 << SYS_ADMIN, 1 << SYS_ADMIN, 0, 0, 0])]
    {
        log.refused(format!("take {name}"), raw(CAPSET, [header.as_ptr() as usize, sets.as_ptr() as usize, 0, 0, 0, 0]));
    }
    log.refused("raise an ambient capability", process_control(CAP_AMBIENT, AMBIENT_RAISE, SYS_ADMIN));
    // RLIMIT_NOFILE, RLIMIT_NPROC.
    for (name, resource) in [("open files", 7), ("processes", 6)] {
        let mut now = [0u64; 2];
        let _ = raw(PRLIMIT, [0, resource, 0, now.as_mut_ptr() as usize, 0, 0]);
        let more = [now[1].saturating_add(1); 2];
        log.refused(format!("raise the limit of {name} above {}", now[1]), raw(PRLIMIT, [0, resource, more.as_ptr() as usize, 0, 0, 0]));
    }
    log.refused("a higher priority", raw(SETPRIORITY, [0, 0, -20isize as usize, 0, 0, 0]));
    let first = [1u32];
    for (name, policy) in [("first in, first out", 1), ("round robin", 2)] {
        log.refused(format!("the real-time policy {name}"), raw(SCHED_SETSCHEDULER, [0, policy, first.as_ptr() as usize, 0, 0, 0]));
    }
    set_user_id(log);
}

/// Says who the caller is: real and effective user, and effective capabilities.
pub(super) fn who() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("CapEff:") || line.starts_with("CapPrm:")).for_each(say);
}

/// A program that belongs to root and has the set-user-id bit gains nothing when another user executes it.
fn set_user_id(log: &mut Log) {
    let make = || -> io::Result<()> {
        fs::copy(env::current_exe()?, "/tmp/powerful")?;
        fs::set_permissions("/tmp/powerful", fs::Permissions::from_mode(0o6755))
    };
    if let Err(error) = make() {
        log.refused("a set-user-id program", Err::<(), _>(error));
        return;
    }
    let outcome = in_child(|| {
        let become_other = raw(SETGROUPS, [0, 0, 0, 0, 0, 0])
            .and_then(|_| raw(SETRESGID, [OTHER, OTHER, OTHER, 0, 0, 0]))
            .and_then(|_| raw(SETRESUID, [OTHER, OTHER, OTHER, 0, 0, 0]));
        if become_other.is_err() {
            // There is one user only, who is root inside anyway.
            return 0;
        }
        let said = Command::new("/tmp/powerful").args(["attack", "who"]).output().map(|output| output.stdout).unwrap_or_default();
        let said = String::from_utf8_lossy(&said).into_owned();
        let is_other = said.lines().any(|line| line.split_ascii_whitespace().eq(["Uid:", "1000", "1000", "1000", "1000"]));
        let is_powerless = said.lines().filter(|line| line.starts_with("Cap")).all(|line| line.ends_with("0000000000000000"));
        u8::from(!(is_other && is_powerless))
    });
    log.holds("a set-user-id program gains nothing", outcome.is_ok_and(|code| code == 0));
    let _ = fs::remove_file("/tmp/powerful");
}
