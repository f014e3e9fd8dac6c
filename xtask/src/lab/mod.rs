//! A machine where `/dev/kvm` works, on any machine: QEMU emulates a processor with AMD's virtualization extensions, a distribution's
//! kernel drives them, and the root file system is this machine's own, with every write kept in memory and lost at the end.
//!
//! | module | noun |
//! |---|---|
//! | `materials` | what it is made of: a kernel, its modules, Firecracker; fetched once |
//! | `initramfs` | what the machine starts with, and the command in it |
//! | `pinned` | which Firecracker: the file that `sandbar setup` has, too |
//! | `daemon` | a program beside us that ends with us |
//! | `machine` | the machine: put together, started, ended |
//! | `relay` | its output, on ours |

mod daemon;
mod initramfs;
mod machine;
pub mod materials;
#[path = "../../../crates/runtime/src/released/pinned.rs"]
mod pinned;
mod relay;

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use xshell::Shell;

use crate::outcome::{Failure, say};
use machine::Machine;
use materials::Materials;

/// As `timeout` has it.
const TIMED_OUT: u8 = 124;
/// The lab itself failed; the command may not have run.
const FAILED: u8 = 125;

/// How large a machine, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// End the machine after this many seconds.
    #[arg(long, default_value_t = Self::default().deadline)]
    pub deadline: u64,
    /// Its memory, in MiB; half of it may hold files.
    #[arg(long, default_value_t = Self::default().memory)]
    pub memory: u32,
    /// Its processors.
    #[arg(long, default_value_t = Self::default().processors)]
    pub processors: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { deadline: 900, memory: 3072, processors: 2 }
    }
}

/// What ends a run.
enum Event {
    /// The machine said the command's status, or (empty) ended without.
    Status(String),
    Signal(i32),
}

/// What the lab is made of, if it can be run here.
pub fn ready(shell: &Shell) -> Result<Materials, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            "the lab shows this machine's files as they are, with their owners, and only root may share those: run it as root",
        ));
    }
    materials::fetch(shell)
}

/// Runs a command in the lab, with its output on ours. Its status: 124 when the deadline passed, 125 when the lab failed.
pub fn run(shell: &Shell, options: &Options, command: &[String]) -> u8 {
    try_run(shell, options, command).unwrap_or_else(|failure| {
        say(&format!("lab: {failure}"));
        FAILED
    })
}

fn try_run(shell: &Shell, options: &Options, command: &[String]) -> Result<u8, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            "the lab shows this machine's files as they are, with their owners, and only root may share those: run it as root",
        ));
    }
    let materials = materials::fetch(shell)?;
    // From before anything is started, so that nothing is left behind.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let mut machine = Machine::start(&materials, options, command)?;

    let (tell, told) = mpsc::channel();
    let status = machine.status()?;
    let tell_status = tell.clone();
    thread::spawn(move || {
        let _ = tell_status.send(Event::Status(relay::read(status)));
    });
    thread::spawn(move || {
        for signal in signals.forever() {
            if tell.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    let event = told.recv_timeout(Duration::from_secs(options.deadline));
    let console = machine.end();
    Ok(match event {
        Ok(Event::Status(status)) => match status.trim().parse() {
            Ok(status) => status,
            Err(_) => {
                say(&format!("lab: the machine ended before the command did; its last words:\n{console}"));
                FAILED
            }
        },
        // As shells have it.
        Ok(Event::Signal(signal)) => 128 + u8::try_from(signal).unwrap_or_default(),
        Err(RecvTimeoutError::Timeout) => {
            say(&format!("lab: the command did not end within {} s; the machine's last words:\n{console}", options.deadline));
            TIMED_OUT
        }
        Err(RecvTimeoutError::Disconnected) => FAILED,
    })
}
