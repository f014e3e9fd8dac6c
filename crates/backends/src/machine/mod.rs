//! The adapter between a wall and the contract.
//!
//! A wall ([`Backend`]) brings up a place with the agent in it, dials it, freezes it, saves it and takes it down. Everything else is
//! here, once for all walls:
//!
//! | module | noun |
//! |---|---|
//! | `backend` | the trait that walls meet |
//! | `provider`, `handle` | the contract's traits over a wall |
//! | `live` | what the clones and tasks of one handle share; why a place ended |
//! | `client` | one operation over one connection: deadlines, and what a cut means |
//! | `answer` | the agent's answers, validated |
//! | `exec`, `input`, `files`, `bulk`, `watch`, `ports`, `open_ports`, `egress`, `status` | groups of operations |
//! | `framed` | a stream to a port on a wire that cannot end one direction alone |
//! | `provision`, `lifecycle`, `checkpoint` | bringing up, stopping and starting, saving and restoring |
//! | `quiet`, `saving`, `rejoin`, `renewal` | the wire before a save of memory; who saves; clients that it cut off; what differs after memory was loaded |
//! | `record` | what the ledger keeps; what a generation holds |
//! | `output` | what a stop keeps of the processes |
//! | `template` | places from which later ones begin |
//! | `steps` | where tests may kill sandbar |
//! | `agent`, `config`, `process`, `socket`, `launcher` | for walls on this host: the agent's file, its configuration, held processes, unix sockets, a thread to clone from |

pub mod agent;
pub(crate) mod answer;
mod backend;
mod bulk;
mod checkpoint;
mod client;
pub mod config;
mod egress;
mod exec;
#[cfg(test)]
mod fake;
mod files;
mod framed;
mod handle;
mod input;
pub mod launcher;
mod lifecycle;
mod live;
mod open_ports;
mod output;
mod ports;
pub mod process;
mod provider;
mod provision;
mod quiet;
mod record;
mod rejoin;
mod renewal;
mod room;
pub(crate) mod saving;
pub mod socket;
mod status;
mod steps;
pub mod template;
#[cfg(test)]
mod tests;
mod watch;

pub use backend::{Backend, Boot, Facts, Memory};
pub use handle::MachineHandle;
pub use provider::Machine;
pub use steps::{MEMORY_STEPS, STEPS, TEMPLATE_STEPS};
pub use template::TemplateKey;
