//! Control groups: v1, v2 and both at once.
//!
//! | module | noun |
//! |---|---|
//! | `hierarchy` | where this host's hierarchies are, and where in them sandboxes may have groups |
//! | `groups` | the groups of one sandbox: made, limited, read |
//! | `confine` | a group below, for what is ended first when memory runs out |
//! | `freezer` | freezing and thawing |
//! | `removal` | ending what is in a group, and removing it |
//!
//! A sandbox has at most one group in the v2 hierarchy (freezing, killing, CPU time, and whatever controllers are there) and one in each v1
//! hierarchy whose controller a limit needs. The child is cloned into the v2 group. On v1 it writes `0` into the group's `tasks` itself:
//! a thread that moves itself needs no global lock, so this takes 0.05 ms where writing its id into `cgroup.procs` takes 12
//! (Linux 5.5 and later).

mod confine;
mod freezer;
mod groups;
mod hierarchy;
mod removal;

pub(crate) use freezer::{freeze, is_frozen, thaw};
pub(crate) use groups::{AGENT_PROCESSES, Groups, Made};
pub(crate) use hierarchy::{Controller, Hierarchies};
pub(crate) use removal::{empty_and_remove, remove};
