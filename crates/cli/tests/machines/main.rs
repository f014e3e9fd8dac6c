//! Virtual machines under the command line: a machine that is killed, panics or hangs is told as such, and `kill -9` of sandbar at each step of its life
//! leaks nothing.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod ends;
mod firecracker;
mod kills;
mod qemu;
mod world;
