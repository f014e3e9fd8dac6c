use std::env;

use xshell::{Shell, cmd};

use crate::outcome::{Failure, say};

/// What this machine must be able to run when continuous integration says so.
const REQUIRED_IN_CI: &str = "fake,dangerous-host,container-root,container-rootless,container-rootless-ranges,docker-runc,registry";

/// Builds and runs every test of the workspace.
pub fn run(shell: &Shell, filter: Option<&str>) -> Result<(), Failure> {
    let required = match env::var("SANDBAR_REQUIRE") {
        Ok(required) => required,
        Err(_) if env::var("CI").is_ok_and(|value| value == "true") => REQUIRED_IN_CI.to_owned(),
        Err(_) => String::new(),
    };
    say(&format!("required: {}", if required.is_empty() { "nothing (what cannot run here is ignored)" } else { &required }));
    let filter = filter.as_slice();
    cmd!(shell, "cargo test --workspace --no-fail-fast -- {filter...}").env("SANDBAR_REQUIRE", required).run()?;
    Ok(())
}
