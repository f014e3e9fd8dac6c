use xshell::{Shell, cmd};

use crate::{
    fuzz, licences,
    outcome::{Failure, all},
    setup, test, tidy,
};

/// How long each fuzz target runs in continuous integration.
const FUZZ_SECONDS: u32 = 10;

/// Everything that needs no test to run.
pub fn check(shell: &Shell) -> Result<(), Failure> {
    all(vec![
        ("format", Box::new(|| Ok(cmd!(shell, "cargo fmt --all -- --check").run()?))),
        ("house rules", Box::new(|| tidy::run(shell))),
        ("lints", Box::new(|| Ok(cmd!(shell, "cargo clippy --workspace --all-targets -- -D warnings").run()?))),
        (
            "documentation",
            Box::new(|| Ok(cmd!(shell, "cargo doc --workspace --no-deps --quiet").env("RUSTDOCFLAGS", "-D warnings").run()?)),
        ),
        ("licences and sources", Box::new(licences::check)),
    ])
}

/// Check, test, and a short fuzz.
pub fn run(shell: &Shell) -> Result<(), Failure> {
    all(vec![
        ("setup", Box::new(|| setup::run(shell))),
        ("check", Box::new(|| check(shell))),
        ("test", Box::new(|| test::run(shell, None, true))),
        ("fuzz", Box::new(|| fuzz::run(shell, None, FUZZ_SECONDS))),
    ])
}
