//! Another sandbar: a provider of its host, over its server's API.
//!
//! The other side keeps its own ledger, and its word is what counts; this side's ledger keeps the sandbox's id, which is the same on both, the address, which is
//! the provider's name, and the state as last known. One operation is one connection, as everywhere; nothing is kept open here for the next, so there is nothing that could
//! have gone stale, and no runtime whose end would end somebody else's connection.
//!
//! | module | noun |
//! |---|---|
//! | `address` | [`Address`]: where it is |
//! | `context` | [`Contexts`]: short names, and keys |
//! | `remotes` | [`Remotes`]: the providers that were asked for by address |
//! | `provider` | the provider |
//! | `handle` | one sandbox there |
//! | `record`, `marker` | what is kept here of a sandbox, of a checkpoint |
//! | `client`, `body` | requests and WebSockets; what a request carries |
//! | `problem` | errors, as they were |
//! | `dial`, `tls`, `ssh` | byte streams to it |
//! | `needs` | [`Needs`]: what another host is to choose a provider for |
//! | `session` | a command, and its output over connections that are cut |
//! | `tunnel`, `watch`, `open_ports` | a port, a watched path, which ports are open |
//! | `elsewhere` | [`Elsewhere`]: images, kernels, templates and keys there |
//! | `lease` | what keeps a sandbox alive that ends with its client |

mod address;
mod body;
mod client;
mod context;
mod dial;
mod elsewhere;
mod handle;
mod lease;
mod marker;
mod needs;
mod open_ports;
mod problem;
mod provider;
mod record;
mod remotes;
mod session;
mod ssh;
mod tls;
mod tunnel;
mod watch;

pub use address::Address;
pub use context::{Contexts, Place};
pub use elsewhere::Elsewhere;
pub use needs::Needs;
pub use provider::Remote;
pub use remotes::Remotes;
pub use ssh::{SshOptions, clean};
