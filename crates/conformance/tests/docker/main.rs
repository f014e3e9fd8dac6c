//! What becomes of sandboxes when their engine is killed, restarted, gone, full, broken, or shared with others.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod broken;
#[path = "../engines/busybox.rs"]
mod busybox;
#[path = "../engines/engine.rs"]
mod engine;
mod engine_gone;
mod full;
mod missing;
mod others;
mod portable;
mod world;
