//! What leaves sandboxes: decided here, on the host, by the policy that the ledger has.
//!
//! The agent asks about every name and every connection, and whatever it says may be a lie. So a name is resolved here, the address that it means
//! is decided about and connected to (and no other), and what the sandbox says of the name in the beginning of the connection must agree with it.
//!
//! | module | noun |
//! |---|---|
//! | `service` | [`EgressService`]: the one that answers for a sandbox, in its keeper or in the process that owns it |
//! | `gate` | the policy now, and the log: what all its connections share |
//! | `passage` | one connection, from the question to its end |
//! | `flow` | datagrams between two ends, the same way |
//! | `own` | which addresses are this machine's own |
//! | `resolver` | [`Resolver`](resolver::Resolver): names' addresses, so many at a time |
//! | `carrier` | a connection's bytes, which the kernel passes on by page where nobody must look at them |
//! | `meter` | how much passes, and whether more may |
//! | `counts` | [`NetworkCounts`]: what was decided and what has passed, for whoever watches |
//! | `plain` | connections without secrets: of plain HTTP each request is looked at |
//! | `exchange` | requests and answers of a connection that is taken apart |
//! | `held` | a connection's end that is closed last |
//! | `tasks` | what goes on beside a connection, and ends with it |
//! | `shown` | the name that a client shows in the beginning: TLS's server name, HTTP's host |
//! | `secret` | secrets, which are put into requests here and which the sandbox never sees |
//! | `log` | [`NetworkLog`]: every decision, in the sandbox's folder |
//! | `kept` | what stays of the log when its oldest part goes |
//! | `reader` | [`NetworkReader`]: the same of another host as well |
//! | `verbs` | [`Sandbox::set_network`](crate::Sandbox::set_network), [`Sandbox::network_log`](crate::Sandbox::network_log) |

mod carrier;
mod counts;
mod exchange;
mod flow;
mod gate;
mod held;
mod kept;
mod log;
mod meter;
mod own;
mod passage;
mod plain;
mod reader;
mod resolver;
mod secret;
mod service;
mod shown;
mod tasks;
mod verbs;

pub(crate) use counts::NetworkCounts;
pub(crate) use log::NetworkLog;
pub use log::{NetworkEvent, NetworkRecord};
pub(crate) use own::is_own;
pub use reader::NetworkReader;
pub(crate) use secret::{Vault, values, variables};
pub(crate) use service::{EgressService, LocalEgress, raise_open_files};
