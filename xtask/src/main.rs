//! The project's own chores, so that a fresh machine needs nothing but this checkout, rustup and a C compiler.

mod backports;
mod bench;
mod ci;
mod fuzz;
mod outcome;
mod setup;
mod test;
mod tidy;

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
    /// Exactly what continuous integration runs: check, test, and a short fuzz.
    Ci,
}

fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments.chore) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(failure) => {
            outcome::say(&format!("error: {failure}"));
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(chore: &Chore) -> Result<(), Failure> {
    let shell = Shell::new()?;
    shell.change_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    match chore {
        Chore::Setup => setup::run(&shell),
        Chore::Check => ci::check(&shell),
        Chore::Test { filter, no_setup } => {
            if !no_setup {
                setup::run(&shell)?;
            }
            test::run(&shell, filter.as_deref())
        }
        Chore::Bench { arguments } => bench::run(&shell, arguments),
        Chore::Fuzz { target, seconds } => fuzz::run(&shell, target.as_deref(), *seconds),
        Chore::Ci => ci::run(&shell),
    }
}
