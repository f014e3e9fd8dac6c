//! The sandbar command.
//!
//! | module | noun |
//! |---|---|
//! | [`command`] | one file per group of commands: what they accept and do |
//! | [`args`] | parsers of sizes, times, volumes, locations |
//! | [`session`] | a command inside a sandbox, connected to this process |
//! | [`terminal`], [`signals`] | what the person has in hand |
//! | [`output`], [`error`] | what is printed, and the exit status |
//! | [`log`] | what happens on the way, for who asks |

mod args;
mod command;
mod error;
mod log;
mod output;
mod session;
mod signals;
mod terminal;

use std::process::ExitCode;

use sandbar_core::{Context, Result};

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
    log::begin(cli.log_format());
    let status = match runtime(cli.has_clients()).map_err(Failure::from).and_then(|runtime| finish(runtime, cli)) {
        Ok(status) => status,
        Err(failure) => failure.report(),
    };
    terminal::restore();
    exit(status)
}

/// One thread for a command: it waits for one or two sockets, and starting more threads would cost more than the work.
fn runtime(has_clients: bool) -> Result<tokio::runtime::Runtime> {
    use tokio::runtime::Builder;
    let mut builder = if has_clients { Builder::new_multi_thread() } else { Builder::new_current_thread() };
    builder.enable_all().build().context("start", || "cannot start the event loop".to_owned())
}

fn finish(runtime: tokio::runtime::Runtime, cli: Cli) -> Outcome<u8> {
    let outcome = runtime.block_on(cli.run());
    // A thread that still reads a terminal, or writes to a pager that waits, must not keep the process.
    runtime.shutdown_background();
    outcome
}
