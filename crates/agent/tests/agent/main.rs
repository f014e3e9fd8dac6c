//! The real program, driven over its real socket.

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
