use std::ffi::c_long;

use super::Log;
#[cfg(target_arch = "x86_64")]
use crate::sys::in_child;
use crate::{number::*, sys::raw};

/// EPERM and ENOSYS: what a filter says. Any other error comes from the call's own code, behind the filter.
pub(super) const FILTERED: [i32; 2] = [1, 38];

/// Calls that Docker's default filter refuses to a container without added capabilities, each with arguments that do nothing.
const CALLS: [(&str, c_long); 54] = [
    ("acct", ACCT),
    ("add_key", ADD_KEY),
    ("bpf", BPF),
    ("clock_adjtime", CLOCK_ADJTIME),
    ("clock_settime", CLOCK_SETTIME),
    ("create_module", CREATE_MODULE),
    ("delete_module", DELETE_MODULE),
    ("fanotify_init", FANOTIFY_INIT),
    ("finit_module", FINIT_MODULE),
    ("fsmount", FSMOUNT),
    ("fsopen", FSOPEN),
    ("fspick", FSPICK),
    ("get_mempolicy", GET_MEMPOLICY),
    ("init_module", INIT_MODULE),
    ("ioperm", IOPERM),
    ("iopl", IOPL),
    ("io_uring_enter", IO_URING_ENTER),
    ("io_uring_register", IO_URING_REGISTER),
    ("io_uring_setup", IO_URING_SETUP),
    ("kcmp", KCMP),
    ("kexec_file_load", KEXEC_FILE_LOAD),
    ("kexec_load", KEXEC_LOAD),
    ("keyctl", KEYCTL),
    ("lookup_dcookie", LOOKUP_DCOOKIE),
    ("mbind", MBIND),
    ("migrate_pages", MIGRATE_PAGES),
    ("mount", MOUNT),
    ("mount_setattr", MOUNT_SETATTR),
    ("move_mount", MOVE_MOUNT),
    ("move_pages", MOVE_PAGES),
    ("nfsservctl", NFSSERVCTL),
    ("open_by_handle_at", OPEN_BY_HANDLE_AT),
    ("open_tree", OPEN_TREE),
    ("perf_event_open", PERF_EVENT_OPEN),
    ("pidfd_getfd", PIDFD_GETFD),
    ("pivot_root", PIVOT_ROOT),
    ("query_module", QUERY_MODULE),
    ("quotactl", QUOTACTL),
    ("quotactl_fd", QUOTACTL_FD),
    ("reboot", REBOOT),
    ("request_key", REQUEST_KEY),
    ("setdomainname", SETDOMAINNAME),
    ("sethostname", SETHOSTNAME),
    ("setns", SETNS),
    ("set_mempolicy", SET_MEMPOLICY),
    ("set_mempolicy_home_node", SET_MEMPOLICY_HOME_NODE),
    ("settimeofday", SETTIMEOFDAY),
    ("swapoff", SWAPOFF),
    ("swapon", SWAPON),
    ("sysfs", SYSFS),
    ("syslog", SYSLOG),
    ("umount2", UMOUNT2),
    ("userfaultfd", USERFAULTFD),
    ("vhangup", VHANGUP),
];

pub(super) fn attack(log: &mut Log) {
    for (name, number) in CALLS.into_iter().chain([("uselib", USELIB), ("ustat", USTAT)]).filter(|(_, number)| *number >= 0) {
        log.refused_as(name, raw(number, [0; 6]), &FILTERED);
    }
    // ADDR_NO_RANDOMIZE and UNAME26, linux/personality.h.
    for (name, persona) in [("personality without randomization", 0x004_0000), ("personality of another kernel", 0x002_0000 | 0x80)] {
        log.refused_as(name, raw(PERSONALITY, [persona, 0, 0, 0, 0, 0]), &FILTERED);
    }
    other_abis(log);
}

/// The same kernel by its other doors: the x32 numbers, and the gate of 32-bit programs.
#[cfg(target_arch = "x86_64")]
fn other_abis(log: &mut Log) {
    /// `__X32_SYSCALL_BIT`, asm/unistd.h.
    const X32: c_long = 0x4000_0000;
    /// `CLONE_NEWUSER`, linux/sched.h.
    const NEW_USER: usize = 0x1000_0000;

    // A filter may also end the caller, so each has a child of its own.
    for (name, number, argument) in [("x32 unshare", UNSHARE, NEW_USER), ("x32 mount", MOUNT, 0), ("x32 keyctl", KEYCTL, 0)] {
        let outcome = in_child(|| match raw(number | X32, [argument, 0, 0, 0, 0, 0]) {
            Err(error) if FILTERED.contains(&error.raw_os_error().unwrap_or(0)) => 0,
            _ => 1,
        });
        log.holds(format!("{name} is filtered"), outcome.is_ok_and(|code| code == 0 || code == 128 + 31));
    }
    // unshare and keyctl, asm/unistd_32.h.
    for (name, number, argument) in [("32-bit unshare", 310, NEW_USER), ("32-bit keyctl", 288, 0)] {
        let outcome = in_child(|| match gate(number, argument) {
            -1 | -38 => 0,
            _ => 1,
        });
        // A kernel without the gate ends the caller with SIGSEGV.
        log.holds(format!("{name} is filtered"), outcome.is_ok_and(|code| matches!(code, 0 | 139 | 159)));
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "there is no other way to the gate of 32-bit programs")]
fn gate(number: i32, argument: usize) -> i32 {
    let result: i64;
    // SAFETY: the calls that go through it take numbers only; the registers that the gate changes are told.
    unsafe {
        std::arch::asm!(
            "push rbx", "mov rbx, {argument}", "xor ecx, ecx", "xor edx, edx", "int 0x80", "pop rbx",
            argument = in(reg) argument,
            inlateout("rax") i64::from(number) => result,
            out("rcx") _, out("rdx") _, out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result as i32
}

/// 64-bit ARM has no other doors worth trying: its 32-bit calls need a 32-bit program.
#[cfg(not(target_arch = "x86_64"))]
fn other_abis(_: &mut Log) {}
