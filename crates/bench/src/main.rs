//! Measures sandbar beside named peers, in one run, and prints the tables of `docs/performance.md`.
//!
//! Only ratios within one run mean something. Peers that are not installed are said to be missing; nothing is invented for them.

mod case;
mod host;
mod peer;
mod sample;
mod service;
mod table;

use std::{error::Error, path::PathBuf};

use clap::Parser;

/// Measures sandbar beside named peers.
#[derive(Parser)]
struct Arguments {
    /// Only the cases whose names contain one of these words: exec, create, limits, stream, egress, expose, parallel, idle, server, load, gvisor, docker, qemu, firecracker.
    only: Vec<String>,
    /// Samples per row.
    #[arg(long, default_value_t = 60)]
    samples: usize,
    /// How many idle sandboxes to measure the memory of.
    #[arg(long, default_value_t = 500)]
    idle: usize,
    /// Of how many sandboxes a server is to know when its memory is measured.
    #[arg(long, default_value_t = 1000)]
    known: usize,
    /// The sandbar program whose whole-process times are measured.
    #[arg(long)]
    sandbar: Option<PathBuf>,
}

/// What went wrong in a measurement.
pub type Result<T = ()> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result {
    let arguments = Arguments::parse();
    let sandbar = match arguments.sandbar {
        Some(path) => path,
        None => std::env::current_exe()?.with_file_name("sandbar"),
    };
    let setting = case::Setting { samples: arguments.samples, idle: arguments.idle, known: arguments.known, sandbar };
    table::paragraph(&host::describe());
    case::run(&setting, &arguments.only).await
}
