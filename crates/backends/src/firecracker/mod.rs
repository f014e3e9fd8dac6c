//! A microVM under Firecracker: KVM's isolation with a monitor that does little else, in a jail of its own where sandbar is root.
//!
//! | module | noun |
//! |---|---|
//! | `wall` | the trait; where one machine is |
//! | `engine` | the programs of this host, and whether they may run machines here |
//! | `version` | which Firecracker this is |
//! | `boot` | a machine that boots its kernel, and its record |
//! | `start` | starting Firecracker, and ending it |
//! | `room` | what Firecracker sees of this host's files |
//! | `jail` | the jailer's arguments, what it makes, and its control group |
//! | `api` | Firecracker's HTTP interface |
//! | `vsock` | a stream to the agent through Firecracker's socket |
//! | `disk` | the writable layer saved, by the agent of the machine or of one that is started for that |
//! | `memory` | a machine's state, saved and loaded |
//! | `info`, `probe` | what this host can do |
//!
//! The guest is any distribution's kernel (see the crate `sandbar-guest`) with the agent as its first process, listening on vsock. It has no
//! network device. Each machine has a folder of its own, which is Firecracker's working directory or root, and every path that it is told is
//! relative to that: a snapshot finds its disks at the same names in another folder.

mod api;
mod boot;
mod disk;
mod engine;
mod info;
mod jail;
mod memory;
mod probe;
mod room;
mod start;
mod version;
mod vsock;
mod wall;

pub use crate::options::FirecrackerOptions;
pub use info::claim;
pub use start::STEPS;
pub use wall::{Firecracker, FirecrackerProvider, Place};
