//! The agent as the first process of a virtual machine's kernel: from an empty memory file system to a sandbox.
//!
//! | module | noun |
//! |---|---|
//! | `boot` | the order of it all |
//! | `kernel_modules` | drivers, from the first file system |
//! | `disks` | the configuration's disk, layers, the writable disk |
//! | `mounts` | the file systems of a sandbox |
//! | `wire` | how the host's connections come |
//! | `hosts` | the table of hosts |
//! | `group` | the control group of everything but the agent |
//! | `layer` | the writable layer, handed to the host |
//!
//! Whatever goes wrong before the host can be told ends the machine, with the reason as the last line on its console.

mod boot;
mod disks;
mod group;
mod hosts;
mod kernel_modules;
mod layer;
mod mounts;
mod wire;

use std::{os::fd::BorrowedFd, time::Duration};

use rustix::system::RebootCommand;

pub(crate) use boot::boot;
pub(crate) use group::{Entry, Group};
pub(crate) use hosts::Hosts;
pub(crate) use layer::{Upper, send as send_layer};
pub(crate) use wire::Wire;

/// What a guest has and other sandboxes have not.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    /// The upper folder of the root: what was changed.
    pub(crate) upper: Upper,
    /// Where everything but the agent runs; `None` where the kernel has no such groups.
    pub(crate) group: Option<Group>,
    /// The table of hosts, where the image has a place for it.
    pub(crate) hosts: Option<Hosts>,
}

/// Whether this is the first process of a kernel: in every other sandbox whoever started it has given it its configuration.
pub(crate) fn is_first_process() -> bool {
    // SAFETY: the number is only asked about.
    #[expect(unsafe_code, reason = "a descriptor that may not be there is asked about by its number")]
    let config = unsafe { BorrowedFd::borrow_raw(sandbar_protocol::CONFIG_FD) };
    let told = std::env::args_os().nth(1).is_some_and(|option| option == sandbar_protocol::CONFIG_OPTION);
    rustix::process::getpid().is_init() && !told && rustix::io::fcntl_getfd(config).is_err()
}

/// Writes everything to the disks.
pub(crate) fn sync() {
    rustix::fs::sync();
}

/// Ends the machine.
pub(crate) fn power_off() -> ! {
    sync();
    // A monitor that was told not to reboot ends; one without a power button (Firecracker) knows only this way.
    let _ = rustix::system::reboot(RebootCommand::Restart);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}
