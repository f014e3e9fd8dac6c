//! Attempts to leave the sandbox. Each prints a line for every attempt, and the program ends with 1 if one succeeded.

use std::process::ExitCode;

use crate::say;

pub(crate) fn run(name: &str, rest: &[&str]) -> ExitCode {
    let _ = rest;
    say(&format!("unknown attack {name}"));
    ExitCode::FAILURE
}
