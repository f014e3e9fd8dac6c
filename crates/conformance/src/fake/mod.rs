//! A provider that keeps the contract in memory: files, processes of a few builtin commands, ports, checkpoints. It needs no
//! privileges and no time, and exists so that the runtime and the server can be tested anywhere.

mod command;
mod exposed;
mod handle;
mod machine;
mod process;
mod provider;
mod shell;
mod tree;
mod tree_tar;

pub use provider::FakeProvider;
