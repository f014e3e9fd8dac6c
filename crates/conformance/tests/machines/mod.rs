//! Virtual machines.

pub mod qemu;
