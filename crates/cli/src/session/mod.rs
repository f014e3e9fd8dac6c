//! One command inside a sandbox, connected to this process: its streams, its terminal, its signals.

mod detach;
mod drive;
mod escalation;
mod feed;
mod stdin;

pub(crate) use drive::{End, Session};
