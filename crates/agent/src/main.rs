//! The agent's program; everything is in the library beside it, so that tests reach it.

use std::process::ExitCode;

fn main() -> ExitCode {
    sandbar_agent::run()
}
