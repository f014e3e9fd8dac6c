//! Attempts to leave the sandbox. Each attempt prints a line, `refused WHAT: ERROR` or `BREACH WHAT: …`, and the program ends with 1 if
//! one succeeded. Nothing here would do harm if it did: what is opened is not written, what is set is what it was.

mod agent;
mod devices;
mod files;
mod kernel_files;
mod keyring;
mod machine;
mod mounts;
mod namespaces;
mod network;
mod privileges;
mod processes;
mod race;
mod syscalls;
mod terminal;

use std::{fmt::Display, io, process::ExitCode};

use crate::say;

/// What happened so far.
#[derive(Default)]
pub(crate) struct Log {
    breaches: u32,
}

impl Log {
    /// An attempt that must fail, however.
    fn refused<T>(&mut self, what: impl Display, outcome: io::Result<T>) {
        match outcome {
            Ok(_) => self.breach(what, "it was done"),
            Err(error) => say(&format!("refused {what}: {error}")),
        }
    }

    /// An attempt that must fail with one of these errors: others mean that it was looked at.
    fn refused_as<T>(&mut self, what: impl Display, outcome: io::Result<T>, errors: &[i32]) {
        match outcome {
            Err(error) if !errors.contains(&error.raw_os_error().unwrap_or(0)) => self.breach(what, error),
            other => self.refused(what, other),
        }
    }

    /// Something that must be so.
    fn holds(&mut self, what: impl Display, condition: bool) {
        if condition { say(&format!("refused {what}: it is so")) } else { self.breach(what, "it is not so") }
    }

    fn breach(&mut self, what: impl Display, detail: impl Display) {
        self.breaches += 1;
        say(&format!("BREACH {what}: {detail}"));
    }
}

pub(crate) fn run(name: &str, rest: &[&str]) -> ExitCode {
    let mut log = Log::default();
    match (name, rest) {
        ("agent", []) => agent::attack(&mut log),
        ("environ", needles) => agent::environ(&mut log, needles),
        ("devices", numbers) => devices::attack(&mut log, numbers),
        ("files", [secret, paths @ ..]) => files::attack(&mut log, secret, paths),
        ("keyring", []) => keyring::attack(&mut log),
        ("kernel-files", []) => kernel_files::attack(&mut log),
        ("machine-buses", []) => machine::buses(&mut log),
        ("machine-ports", []) => machine::ports(&mut log),
        ("machine-disks", []) => machine::disks(&mut log),
        ("mounts", []) => mounts::attack(&mut log),
        ("namespaces", []) => namespaces::attack(&mut log),
        ("network", rest) => network::attack(&mut log, rest),
        ("privileges", []) => privileges::attack(&mut log),
        ("who", []) => privileges::who(),
        ("processes", [host]) => processes::attack(&mut log, host),
        ("kill-all", []) => processes::kill_all(&mut log),
        ("swap", [left, right]) => race::swap(left, right),
        ("syscalls", []) => syscalls::attack(&mut log),
        ("terminal", []) => terminal::attack(&mut log),
        _ => log.breach(name, "there is no such attack"),
    }
    if log.breaches == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
