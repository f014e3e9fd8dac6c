//! A microVM under Firecracker: KVM's isolation with a monitor that does little else, in a jail of its own where sandbar is root.
//!
//! | module | noun |
//! |---|---|
//! | `wall` | the trait; where one machine is |
//! | `boot` | bringing up a machine that boots its kernel |
//! | `start` | starting Firecracker, in a jail or without one |
//! | `jail` | the jailer's arguments, what it makes, and its control group |
//! | `api` | Firecracker's HTTP interface |
//! | `vsock` | a stream to the agent through Firecracker's socket |
//! | `disk` | the writable layer saved, by the agent of the machine |
//! | `memory` | a machine's state, saved and loaded |
//! | `console` | the bounded log of what the guest prints |
//! | `version` | which Firecracker this is |
//! | `info`, `probe` | what this host can do |
//!
//! The guest is any distribution's kernel (see the crate `sandbar-guest`) with the agent as its first process, listening on vsock. It has no
//! network device. Each machine has a folder of its own, which is Firecracker's working directory or root, and every path that it is told is
//! relative to that: a snapshot finds its disks at the same names in another folder.

mod api;
mod boot;
mod console;
mod disk;
mod info;
mod jail;
mod memory;
mod probe;
mod start;
mod version;
mod vsock;
mod wall;

pub use info::claim;
pub use start::STEPS;
pub use wall::{Firecracker, FirecrackerProvider, Place};

use sandbar_core::{Error, ErrorKind, Result};

/// Runs work elsewhere that blocks.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::new(ErrorKind::Internal, "firecracker", "a blocking task ended early").with_source(error)),
    }
}
