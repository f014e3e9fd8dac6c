//! What is known of every sandbox, in SQLite (WAL), shared by all processes of one state folder, none of which must be running.
//!
//! | module | noun |
//! |---|---|
//! | `store` | [`Ledger`]: the connection, transactions, errors |
//! | `log` | keeping SQLite's log short |
//! | `schema` | the tables and their migrations |
//! | `sandbox_row` | [`SandboxRow`] and what is read of it |
//! | `operation` | [`Operation`]: what somebody is doing to a sandbox; how it begins and ends |
//! | `resource_row` | what a sandbox holds outside of us |
//! | `journal` | [`LedgerJournal`]: the ledger's face to a provider |
//! | `checkpoint_row` | [`CheckpointRow`] |
//! | `port_row`, `keeper_row`, `probe_row` | exposed ports, their keepers, what was found usable |
//! | `key_row` | keys |
//! | `creation_row` | creations that are done once |
//! | `event_row` | what happened |
//!
//! Calls are synchronous and short (tens of microseconds; a writer waits for the other writers of its moment), and are made where they are
//! needed, on asynchronous threads too.

mod checkpoint_row;
mod creation_row;
mod event_row;
mod journal;
mod keeper_row;
mod key_row;
mod log;
mod operation;
mod port_row;
mod probe_row;
mod resource_row;
mod sandbox_row;
mod schema;
mod store;

pub(crate) use checkpoint_row::{CheckpointRow, CheckpointState};
pub(crate) use creation_row::CreationRow;
pub(crate) use event_row::Known;
pub(crate) use journal::LedgerJournal;
pub(crate) use operation::Operation;
pub(crate) use port_row::PortRow;
pub(crate) use resource_row::Age;
pub(crate) use sandbox_row::{Attention, NewSandbox, SandboxRow};
pub(crate) use store::Ledger;
