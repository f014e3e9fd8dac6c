//! Walls of engines that the tests start themselves.

mod busybox;
pub mod docker;
mod engine;
