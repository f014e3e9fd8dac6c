//! A user-space kernel: the sandbox's system calls are answered by gVisor's sentry, which `runsc` starts. Root and rootless, no daemon.
//!
//! | module | noun |
//! |---|---|
//! | `wall` | the trait |
//! | `boot` | bringing up a sandbox: everything around the child |
//! | `plan` | what the child does from `clone3` to `runsc`: the order of things |
//! | `bundle` | what `runsc` is told: the OCI specification |
//! | `place` | one sandbox as the host sees it: its processes, whether they live, their end |
//! | `wire` | the folder where the agent's socket is |
//! | `engine`, `version` | `runsc`: found, commands to a sandbox that runs; which one it is, and the oldest that is taken |
//! | `memory` | checkpoints with memory |
//! | `limits` | what it may use |
//! | `info`, `probe` | what this host can do |
//!
//! `runsc run` is the first process of a sandbox, cloned by us into a user and a mount namespace of its own, in which it is root and sees
//! an empty file system with nothing of the host but what it needs: the sandbox's root, the volumes, the agent. Its state lies there too,
//! in memory, and goes with it. It starts the sentry and the gofer, and they end with it.

mod boot;
mod bundle;
mod engine;
mod info;
mod limits;
mod memory;
mod place;
mod plan;
mod probe;
mod version;
mod wall;
mod wire;

pub use crate::options::{GvisorOptions, Platform};
pub use boot::STEPS;
pub use engine::lacks_runsc;
pub use info::claim;
pub use place::Place;
pub use wall::{Gvisor, GvisorProvider};
