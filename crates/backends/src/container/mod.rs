//! Namespaces, seccomp, Landlock and control groups: a container without a daemon, as root and as a plain user.
//!
//! | module | noun |
//! |---|---|
//! | `boot` | bringing up a sandbox: everything around the child |
//! | `plan` | what the child does from `clone3` to the agent: the order of things |
//! | `devices` | as root: `/dev` with the sandbox's ids |
//! | `landlock` | which files it may ask for |
//! | `limits` | what it may use |
//! | `stopper` | stopping everything by signals, where no group can be frozen |
//! | `info`, `probe` | what this host can do |
//!
//! A child shares memory with its parent until it executes the agent, and follows a plan that the parent made: no page tables are
//! copied, no memory is allocated, no lock is taken. It makes its namespaces while the parent writes its id maps and, as root,
//! mounts its root file system, and executes the agent only when the ledger knows it.

mod boot;
mod devices;
mod info;
pub(crate) mod landlock;
mod limits;
mod plan;
mod probe;
mod stopper;
mod wall;

pub use boot::STEPS;
pub use info::claim;
pub use wall::{Container, ContainerProvider, Place};
