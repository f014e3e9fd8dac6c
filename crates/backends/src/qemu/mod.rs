//! A virtual machine under QEMU: with KVM where it is usable, else emulated, so that there is a wall of this strength on any machine.
//!
//! | module | noun |
//! |---|---|
//! | `wall` | the trait; where one machine is |
//! | `accelerator` | KVM or emulation |
//! | `boot` | bringing up a machine |
//! | `command` | QEMU's command line, and its record in the generation's folder |
//! | `qmp` | the control socket |
//! | `disk` | the writable layer saved, by the agent of the machine or of one that is started for that |
//! | `memory` | a machine's state, saved and loaded |
//! | `info`, `probe` | what this host can do |
//!
//! The guest is any distribution's kernel (see the crate `sandbar-guest`) with the agent as its first process. It has no network device: the
//! wire is one virtio-serial port, which a small process on the host owns and shares among connections (the agent's `pipe`).

mod accelerator;
mod boot;
mod command;
mod confinement;
mod disk;
mod info;
mod memory;
mod probe;
mod qmp;
mod wall;

pub use crate::options::{Accelerator, QemuOptions};
pub use boot::STEPS;
pub use info::claim;
pub use wall::{Place, Qemu, QemuProvider};

/// QEMU's control socket, in the generation's folder.
const QMP_SOCKET: &str = "qmp.sock";
/// Where the process that owns the pipe finds the machine's end of it, and what the machine prints.
const WIRE_SOCKET: &str = "wire.sock";
const CONSOLE_SOCKET: &str = "console.sock";
