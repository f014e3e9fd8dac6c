//! What walls on this host's own kernel share: a child that is cloned and follows a plan, its ids, its root file system, its limits.
//!
//! | module | noun |
//! |---|---|
//! | `plan`, `step`, `wording` | what a child does from `clone3` to its program: the list while it is made, each step, and its name |
//! | `child`, `syscall` | the child: cloned, spoken to, heard; system calls without the C library |
//! | `network` | its network namespace, made by a process beside it |
//! | `overlay` | as root: the root file system and volumes with the sandbox's ids |
//! | `ids`, `owner` | which host ids a sandbox has, and whose the files of layers are |
//! | `capabilities` | what a sandbox's root may do |
//! | `seccomp` | what it may ask of the kernel |
//! | `cgroup`, `disk` | what it may use |
//! | `folder`, `helper` | the writable layer: prepared, saved, weighed, removed; by a plain user in a process with the sandbox's ids |
//! | `reclaim` | what a crashed sandbar left, removed |
//! | `lingering` | the end of an overlay, where nobody waits for it |
//! | `offspring` | first processes that this process has to reap |
//! | `worker` | threads that live as long as the process |
//! | `unsaved` | what a kernel in user space cannot save with memory, by name |
//! | `kernel` | what this kernel can do |
//! | `asked` | a program of this host, asked within a deadline |

pub(crate) mod asked;
pub(crate) mod capabilities;
pub(crate) mod cgroup;
pub(crate) mod child;
pub(crate) mod disk;
pub(crate) mod folder;
pub(crate) mod helper;
pub(crate) mod ids;
pub(crate) mod kernel;
pub(crate) mod lingering;
pub(crate) mod network;
pub(crate) mod offspring;
pub(crate) mod overlay;
pub(crate) mod owner;
pub(crate) mod plan;
pub(crate) mod reclaim;
pub(crate) mod seccomp;
pub(crate) mod step;
pub(crate) mod syscall;
pub(crate) mod unsaved;
mod wording;
pub(crate) mod worker;
