//! The sandbar command.
//!
//! | module | noun |
//! |---|---|
//! | [`command`] | one file per group of commands: what they accept and do |
//! | [`args`] | parsers of sizes, times, volumes, locations |
//! | [`session`] | a command inside a sandbox, connected to this process |
//! | [`terminal`], [`signals`] | what the person has in hand |
//! | [`output`], [`error`] | what is printed, and the exit status |

mod args;
mod command;
mod error;
mod output;
mod session;
mod signals;
mod terminal;

use std::process::ExitCode;

use sandbar_core::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::{
    command::Cli,
    error::{Failure, Outcome, exit},
};

fn main() -> ExitCode {
    terminal::restore_on_panic();
    let words: Vec<_> = std::env::args_os().collect();
    let cli = match Cli::read(&words) {
        Ok(cli) => cli,
        Err(error) => return exit(error::report_usage(&error)),
    };
    log_if_asked();
    // One thread: a command waits for one or two sockets, and starting more threads would cost more than the work.
    let status = match runtime().map_err(Failure::from).and_then(|runtime| finish(runtime, cli)) {
        Ok(status) => status,
        Err(failure) => failure.report(),
    };
    terminal::restore();
    exit(status)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start", || "cannot start the event loop".to_owned())
}

fn finish(runtime: tokio::runtime::Runtime, cli: Cli) -> Outcome<u8> {
    let outcome = runtime.block_on(cli.run());
    // A thread that still reads a terminal, or writes to a pager that waits, must not keep the process.
    runtime.shutdown_background();
    outcome
}

/// Logs go to standard error, and only where `SANDBAR_LOG` asks for them: a subscriber costs every command something.
fn log_if_asked() {
    if let Some(filter) = std::env::var("SANDBAR_LOG").ok().filter(|filter| !filter.is_empty()) {
        let filter = EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(output::is_coloured()).init();
    }
}
