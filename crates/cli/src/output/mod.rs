//! The only place that prints. Standard output is data, standard error is talk.
//!
//! Text that comes from inside a sandbox (commands, names, errors) is shown with its control characters escaped, so that it cannot
//! drive the reader's terminal. Only the output of a command itself is passed on as it is.

mod json;
mod moment;
mod pull;
mod relay;
mod table;
mod text;

pub(crate) use json::json;
pub(crate) use moment::moment;
pub(crate) use pull::PullProgress;
pub(crate) use relay::Relay;
pub(crate) use table::{Table, ago, bytes};
pub(crate) use text::{error, escape, is_coloured, line, note, raw, usage, warning};
