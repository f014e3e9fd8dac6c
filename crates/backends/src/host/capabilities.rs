//! The capabilities of a sandbox: what its root may do to its own files, processes and ports.

use std::{fs, sync::OnceLock};

/// `linux/capability.h`.
mod number {
    pub(super) const CHOWN: u32 = 0;
    pub(super) const DAC_OVERRIDE: u32 = 1;
    pub(super) const FOWNER: u32 = 3;
    pub(super) const FSETID: u32 = 4;
    pub(super) const KILL: u32 = 5;
    pub(super) const SETGID: u32 = 6;
    pub(super) const SETUID: u32 = 7;
    pub(super) const SETPCAP: u32 = 8;
    pub(super) const NET_BIND_SERVICE: u32 = 10;
    pub(super) const SYS_CHROOT: u32 = 18;
    pub(super) const SETFCAP: u32 = 31;
}

/// What the agent needs, where it redirects what leaves: `CAP_NET_ADMIN`, and `CAP_NET_RAW` to answer datagrams for whoever they were to.
pub(crate) const REDIRECTING: [u32; 2] = [12, 13];

/// Docker's default without NET_RAW (there is no network but loopback), MKNOD (impossible in a user namespace) and AUDIT_WRITE.
/// SYS_CHROOT stays: package managers and servers that separate privileges call `chroot`, and all that it shows is the sandbox itself.
/// All of them hold only against the sandbox's own user namespace. Agent and workloads have the same.
const KEPT: [u32; 11] = [
    number::CHOWN,
    number::DAC_OVERRIDE,
    number::FOWNER,
    number::FSETID,
    number::KILL,
    number::SETGID,
    number::SETUID,
    number::SETPCAP,
    number::NET_BIND_SERVICE,
    number::SYS_CHROOT,
    number::SETFCAP,
];

/// Their bit mask.
pub(crate) fn kept() -> u64 {
    KEPT.iter().fold(0, |mask, capability| mask | 1 << capability)
}

/// Their names.
pub(crate) const KEPT_NAMES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_SETFCAP",
];

/// The capabilities that are taken away for good, of all that this kernel has.
pub(crate) fn dropped() -> impl Iterator<Item = u32> {
    static LAST: OnceLock<u32> = OnceLock::new();
    let last = *LAST.get_or_init(|| {
        let read = fs::read_to_string("/proc/sys/kernel/cap_last_cap");
        // CAP_CHECKPOINT_RESTORE, the last since Linux 5.9.
        read.ok().and_then(|line| line.trim().parse().ok()).unwrap_or(40)
    });
    (0..=last).filter(|capability| !KEPT.contains(capability))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_reaches_beyond_the_sandbox_is_kept() {
        let dropped: Vec<u32> = dropped().collect();
        // NET_ADMIN, NET_RAW, SYS_MODULE, SYS_PTRACE, SYS_ADMIN, SYS_RESOURCE, MKNOD, BPF.
        for capability in [12, 13, 16, 19, 21, 24, 27, 39] {
            assert!(dropped.contains(&capability), "{capability}");
        }
        assert!(KEPT.iter().all(|capability| !dropped.contains(capability)));
    }
}
