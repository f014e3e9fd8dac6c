//! The project's own chores, so that a fresh machine needs nothing but this checkout, rustup and a C compiler.

mod backports;
mod bench;
mod ci;
mod failures;
mod fuzz;
mod in_lab;
mod lab;
mod licences;
mod macos;
mod musl;
mod outcome;
mod schemathesis;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xshell::Shell;

use outcome::Failure;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what the tests and benchmarks need: packages, and the unprivileged user that rootless tests run as.
    Setup,
    /// Format, lints, documentation, and the house rules that no compiler knows.
    Check,
    /// Set up, then run every test. What cannot run here is listed as ignored, with the reason.
    Test {
        /// Passed to every test program: a part of a test's name.
        filter: Option<String>,
        /// Do not install anything.
        #[arg(long)]
        no_setup: bool,
    },
    /// Measure beside the named peers, and print the tables of docs/performance.md.
    Bench {
        /// Passed to the benchmark program.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Fuzz the decoders for a while.
    Fuzz {
        /// One target of fuzz/fuzz_targets; all of them when absent.
        target: Option<String>,
        /// How long each target runs.
        #[arg(long, default_value_t = 30)]
        seconds: u32,
    },
    /// Run a command in a machine where /dev/kvm works, whatever this machine has: emulated, with this machine's files as its own. What the
    /// command writes stays in the machine's memory and is gone at its end.
    Lab {
        #[command(flatten)]
        options: lab::Options,
        /// The command, found and run as here, as root.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Check that the client of other hosts compiles for macOS.
    Macos,
    /// Build the command as a static program that runs on any Linux of this architecture, for `ssh://` to put onto other hosts.
    Static,
    /// Have schemathesis ask a server for everything that docs/openapi.json has, sensible and not.
    Schemathesis,
    /// Exactly what continuous integration runs: check, test, and a short fuzz.
    Ci,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.chore) {
        Ok(code) => code,
        Err(failure) => {
            outcome::say(&format!("error: {failure}"));
            ExitCode::FAILURE
        }
    }
}

fn run(chore: &Chore) -> Result<ExitCode, Failure> {
    let shell = Shell::new()?;
    shell.change_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    match chore {
        Chore::Lab { options, command } => return Ok(ExitCode::from(lab::run(&shell, options, command))),
        Chore::Setup => setup::run(&shell),
        Chore::Check => ci::check(&shell),
        Chore::Test { filter, no_setup } => {
            if !no_setup {
                setup::run(&shell)?;
            }
            test::run(&shell, filter.as_deref(), false)
        }
        Chore::Bench { arguments } => bench::run(&shell, arguments),
        Chore::Fuzz { target, seconds } => fuzz::run(&shell, target.as_deref(), *seconds),
        Chore::Macos => macos::run(&shell),
        Chore::Static => musl::run(&shell),
        Chore::Schemathesis => schemathesis::run(&shell),
        Chore::Ci => ci::run(&shell),
    }?;
    Ok(ExitCode::SUCCESS)
}
