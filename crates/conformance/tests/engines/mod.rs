//! Walls of engines that are installed, or that the tests start themselves.

pub mod busybox;
pub mod docker;
mod engine;
pub mod gvisor;
