//! Virtual machines.

pub mod firecracker;
pub mod qemu;
mod stock;
