use std::{
    path::Path,
    time::{Duration, Instant},
};

use sandbar_core::{Context, Result};

use super::vsock;
use crate::machine::layer::{Fetched, fetch_layer};

/// How long the machine may take to take a connection.
const CONNECT: Duration = Duration::from_secs(30);

/// The writable layer of a machine that runs, by its agent. Blocks.
///
/// # Errors
/// What the agent says.
pub(super) fn fetch(folder: &Path, into: &Path) -> Result<Fetched> {
    let end = Instant::now() + CONNECT;
    let stream = loop {
        match vsock::connect_blocking_in(folder) {
            Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(5)),
            connected => break connected.context("checkpoint", || "the machine's agent does not take a connection".to_owned())?,
        }
    };
    fetch_layer(stream, into)
}
