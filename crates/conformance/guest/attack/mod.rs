//! Attempts to leave the sandbox. Each prints a line for every attempt, and the program ends with 1 if one succeeded.

mod race;

use std::process::ExitCode;

use crate::say;

pub(crate) fn run(name: &str, rest: &[&str]) -> ExitCode {
    match (name, rest) {
        ("swap", [left, right]) => race::swap(left, right),
        _ => say(&format!("unknown attack {name}")),
    }
    ExitCode::FAILURE
}
