use xshell::{Shell, cmd};

use crate::outcome::Failure;

/// Builds the benchmark program for release and runs it.
pub fn run(shell: &Shell, arguments: &[String]) -> Result<(), Failure> {
    cmd!(shell, "cargo build --release --package sandbar --package sandbar-bench").run()?;
    cmd!(shell, "cargo run --quiet --release --package sandbar-bench -- {arguments...}").run()?;
    Ok(())
}
