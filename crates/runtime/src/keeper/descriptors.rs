#![expect(unsafe_code, reason = "descriptors that this program did not open can only be named by their numbers")]

use std::{fs, os::fd::BorrowedFd};

use rustix::io::{FdFlags, fcntl_setfd};

use crate::system::DESCRIPTORS;

/// Has every descriptor above the standard three closed by the next program that is executed: what a command inherited from whoever
/// started it must not be held for days by a keeper.
pub(super) fn close_on_exec() {
    let names = fs::read_dir(DESCRIPTORS).into_iter().flatten().flatten();
    let numbers: Vec<i32> = names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // SAFETY: the borrow lasts for one call that sets a flag. If the descriptor was closed meanwhile, the call fails or sets the flag of one
        // that was opened since, which has it already as all of this program's own do.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
}
