use std::{fs, path::Path};

use super::Log;
use crate::{number::*, sys::raw};

/// linux/ptrace.h.
const ATTACH: usize = 16;
const SEIZE: usize = 0x4206;

/// Tries to reach a process of the host, and the agent.
pub(super) fn attack(log: &mut Log, host: &str) {
    let pid: usize = host.parse().unwrap_or(0);
    log.holds("the host's process is not in /proc", !Path::new(&format!("/proc/{host}")).exists());
    for signal in [0, 10, 9] {
        log.refused(format!("signal {signal} to the host's process"), raw(KILL, [pid, signal, 0, 0, 0, 0]));
    }
    log.refused("pidfd_open of the host's process", raw(PIDFD_OPEN, [pid, 0, 0, 0, 0, 0]));
    log.refused("scheduling of the host's process", raw(SETPRIORITY, [0, pid, 19, 0, 0, 0]));
    for target in [pid, 1] {
        log.refused(format!("ptrace attach to {target}"), raw(PTRACE, [ATTACH, target, 0, 0, 0, 0]));
        log.refused(format!("ptrace seize of {target}"), raw(PTRACE, [SEIZE, target, 0, 0, 0, 0]));
        let mut buffer = [0u8; 64];
        let local = [buffer.as_mut_ptr() as usize, buffer.len()];
        let remote = [0x40_0000usize, 64];
        let vectors = [target, local.as_ptr() as usize, 1, remote.as_ptr() as usize, 1, 0];
        log.refused(format!("process_vm_readv of {target}"), raw(PROCESS_VM_READV, vectors));
        log.refused(format!("process_vm_writev of {target}"), raw(PROCESS_VM_WRITEV, vectors));
        if let Ok(descriptor) = raw(PIDFD_OPEN, [target, 0, 0, 0, 0, 0]) {
            for fd in 0..16 {
                log.refused(format!("pidfd_getfd {fd} of {target}"), raw(PIDFD_GETFD, [descriptor, fd, 0, 0, 0, 0]));
            }
        }
    }
}

/// Signals everybody. Everything that dies must be inside.
pub(super) fn kill_all(log: &mut Log) {
    let seen =
        fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let count = seen.count();
    // Where the host's processes are seen, they would die: that is finding enough.
    if count > 60 {
        log.breach("processes in /proc", count);
        return;
    }
    log.holds("few processes are in /proc", count > 0);
    for signal in [10, 15, 9] {
        let _ = raw(KILL, [-1isize as usize, signal, 0, 0, 0, 0]);
    }
    let _ = raw(KILL, [1, 9, 0, 0, 0, 0]);
    let _ = raw(KILL, [1, 19, 0, 0, 0, 0]);
}
