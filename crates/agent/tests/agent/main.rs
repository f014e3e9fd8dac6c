//! The real program, driven over its real socket.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod confine;
mod deadline;
mod end;
mod exec;
mod files;
mod host;
mod measure;
mod output;
mod ports;
mod robust;
mod terminal;
mod watch;
