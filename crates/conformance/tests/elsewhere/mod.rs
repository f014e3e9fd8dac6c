//! Walls of another host, reached over the network: the other host is this one, by another process with a state folder of its own.

pub mod http;
mod server;
pub mod ssh;
mod sshd;

pub use server::serve;
