//! Seccomp filters: a container's, and what keeps files of special power from writable volumes.
//!
//! | module | noun |
//! |---|---|
//! | `profile` | what is allowed, as data |
//! | `program` | a profile as a BPF program |
//!
//! The program is our own compiler's, not `seccompiler`'s: that gives one error for all that is refused, and compares the number with
//! each allowed call in turn. We need three answers (`EPERM`, `ENOSYS` for what a program should try without, and `EAFNOSUPPORT`), and a
//! search tree: the kernel runs a filter once for every system call number when it is installed, which takes longer than everything else
//! at a start when the program is a list.

mod profile;
mod program;

use std::sync::OnceLock;

/// The filter of this machine's architecture, compiled once.
pub(crate) fn filter() -> &'static [libc::sock_filter] {
    static FILTER: OnceLock<Vec<libc::sock_filter>> = OnceLock::new();
    FILTER.get_or_init(|| program::compile(&profile::profile()))
}

/// The same, for a sandbox with a writable volume: set-user-ID and set-group-ID are refused.
pub(crate) fn filter_without_special_bits() -> &'static [libc::sock_filter] {
    static FILTER: OnceLock<Vec<libc::sock_filter>> = OnceLock::new();
    FILTER.get_or_init(|| program::compile(&profile::without_special_bits()))
}

/// For a kernel in user space whose sandbox has a writable volume: nothing of it makes a file of the host set-user-ID or set-group-ID.
pub(crate) fn filter_of_special_bits() -> &'static [libc::sock_filter] {
    static FILTER: OnceLock<Vec<libc::sock_filter>> = OnceLock::new();
    FILTER.get_or_init(|| program::compile(&profile::special_bits_alone()))
}
