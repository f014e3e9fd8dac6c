use std::{env, path::PathBuf};

use xshell::{Shell, cmd};

use crate::outcome::Failure;

/// Builds the benchmark program for release and runs it.
pub fn run(shell: &Shell, arguments: &[String]) -> Result<(), Failure> {
    cmd!(shell, "cargo build --release --package sandbar --package sandbar-bench").run()?;
    // `cargo run` would build it anew, with the features that this package alone asks for.
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("target"), PathBuf::from);
    let program = target.join("release/sandbar-bench");
    cmd!(shell, "{program} {arguments...}").run()?;
    Ok(())
}
