//! The real program, driven over its real socket.

mod host;
mod exec;
mod measure;
