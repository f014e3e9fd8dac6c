//! Namespaces, seccomp, Landlock and control groups: a container without a daemon, as root and as a plain user.
//!
//! | module | noun |
//! |---|---|
//! | `boot` | bringing up a sandbox: everything around the child |
//! | `plan`, `step`, `wording` | what the child does from `clone3` to the agent: the order, each step, and its name |
//! | `child`, `syscall` | the child: cloned, spoken to, heard; system calls without the C library |
//! | `network` | its network namespace, made by a process beside it |
//! | `overlay`, `devices` | as root: the root file system, volumes and `/dev` with the sandbox's ids |
//! | `ids`, `owner` | which host ids a sandbox has, and whose the files of layers are |
//! | `capabilities`, `seccomp`, `landlock` | what it may ask of the kernel |
//! | `cgroup`, `limits`, `disk` | what it may use |
//! | `folder`, `helper` | the writable layer: prepared, saved, weighed, removed; by a plain user in a process with the sandbox's ids |
//! | `stopper` | stopping everything by signals, where no group can be frozen |
//! | `lingering` | the end of an overlay, where nobody waits for it |
//! | `offspring` | first processes that this process has to reap |
//! | `worker` | threads that live as long as the process |
//! | `kernel`, `info`, `probe` | what this host can do |
//!
//! A child shares memory with its parent until it executes the agent, and follows a plan that the parent made: no page tables are
//! copied, no memory is allocated, no lock is taken. It makes its namespaces while the parent writes its id maps and, as root,
//! mounts its root file system, and executes the agent only when the ledger knows it.

mod boot;
mod capabilities;
mod cgroup;
mod child;
mod devices;
mod disk;
mod folder;
mod helper;
mod ids;
mod info;
mod kernel;
mod landlock;
mod limits;
mod lingering;
mod network;
mod offspring;
mod overlay;
mod owner;
mod plan;
mod probe;
mod seccomp;
mod step;
mod stopper;
mod syscall;
mod wall;
mod wording;
mod worker;

pub use boot::STEPS;
pub use info::claim;
pub use owner::{as_layer_owner, layer_ids};
pub use wall::{Container, ContainerProvider, Place};
