//! Secrets that a sandbox uses and never sees: it has placeholders, and what they stand for is put into requests here, on the host.
//!
//! | module | noun |
//! |---|---|
//! | `vault` | [`Vault`]: what the host keeps of a sandbox's secrets, a file in the state folder |
//! | `authority` | who signs for the secrets' hosts, for this sandbox alone |
//! | `trust` | what a sandbox has so that it believes that authority |
//! | `keyring` | [`Keyring`]: the secrets of one sandbox where its connections pass |
//! | `value` | where a secret's value is read |
//! | `substitution` | a placeholder in a request's head, and what takes its place |
//! | `watch` | [`Watch`]: placeholders in bytes that go elsewhere |
//! | `interception` | a connection to a secret's host, taken apart |
//! | `tls` | the two ends of one that is encrypted |
//! | `ending` | the end of a client that leaves without a word |
//! | `requests` | the requests on such a connection, and the answers |

mod authority;
mod ending;
mod interception;
mod keyring;
mod requests;
mod substitution;
#[cfg(test)]
mod tests;
mod tls;
mod trust;
mod value;
mod vault;
mod watch;

pub(super) use interception::{Failure, Interception};
pub(super) use keyring::Keyring;
pub(super) use watch::{Watch, Watched};
pub(crate) use {trust::variables, value::values, vault::Vault};
