use std::{fs::File, io, os::fd::AsRawFd};

use super::Log;
use crate::{
    number::{CLONE, CLONE3, SETNS, UNSHARE},
    sys::{in_child, raw},
};

/// linux/sched.h.
const KINDS: [(&str, usize); 8] = [
    ("user", 0x1000_0000),
    ("mnt", 0x0002_0000),
    ("pid", 0x2000_0000),
    ("net", 0x4000_0000),
    ("ipc", 0x0800_0000),
    ("uts", 0x0400_0000),
    ("cgroup", 0x0200_0000),
    ("time", 0x0000_0080),
];

pub(super) fn attack(log: &mut Log) {
    for (name, flag) in KINDS {
        // In a child: one that succeeds would change what the rest is tried in.
        let outcome = in_child(|| u8::from(raw(UNSHARE, [flag, 0, 0, 0, 0, 0]).is_ok()));
        log.holds(format!("unshare {name} is refused"), outcome.is_ok_and(|code| code == 0));
        let with_user = in_child(|| u8::from(raw(UNSHARE, [flag | 0x1000_0000, 0, 0, 0, 0, 0]).is_ok()));
        log.holds(format!("unshare user and {name} is refused"), with_user.is_ok_and(|code| code == 0));
        // The lowest byte of these flags is the signal, so `clone` cannot say all of them.
        if flag > 0xff {
            log.refused(format!("clone {name}"), clone(flag));
        }
        log.refused(format!("clone3 {name}"), clone3(flag));
        if let Ok(namespace) = File::open(format!("/proc/1/ns/{name}")) {
            log.refused(format!("setns to the agent's {name}"), raw(SETNS, [namespace.as_raw_fd() as usize, flag, 0, 0, 0, 0]));
        }
        if name != "user"
            && let Ok(own) = File::open(format!("/proc/self/ns/{name}"))
        {
            log.refused(format!("setns to its own {name}"), raw(SETNS, [own.as_raw_fd() as usize, flag, 0, 0, 0, 0]));
        }
    }
}

/// Only flags that make `clone` a fork with namespaces; a child that came to be ends at once, and its number is the finding.
fn clone(flag: usize) -> io::Result<usize> {
    /// SIGCHLD.
    const SIGNAL: usize = 17;
    let outcome = raw(CLONE, [flag | SIGNAL, 0, 0, 0, 0, 0]);
    end_child(outcome)
}

fn clone3(flag: usize) -> io::Result<usize> {
    // struct clone_args: flags, then pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
    let arguments = [flag as u64, 0, 0, 0, 17, 0, 0, 0];
    end_child(raw(CLONE3, [arguments.as_ptr() as usize, size_of_val(&arguments), 0, 0, 0, 0]))
}

fn end_child(outcome: io::Result<usize>) -> io::Result<usize> {
    if matches!(outcome, Ok(0)) {
        std::process::exit(0);
    }
    outcome
}
