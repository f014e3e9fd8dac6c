//! A hook for crash tests, and for nothing else.
//!
//! When the environment variable `SANDBAR_FAULT` is the name of a step, the process kills itself with `SIGKILL` as soon as it gets there: no
//! destructor runs and nothing is flushed, which is what a crash is. `NAME:3` is the third time. With `SANDBAR_FAULT_STOPS` it stops itself (`SIGSTOP`)
//! instead, and goes on when it is told to: so a test can kill what it works with. `SANDBAR_KEEPER_FAULT` does the same to the
//! keepers that a command starts. The names are those that providers give to [`Journal::step`](sandbar_core::Journal::step)
//! (`sandbar_backends::machine::STEPS`), and [`STEPS`], the runtime's own.

use std::{
    env,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rustix::process::{Signal, getpid, kill_process};

/// The steps of the runtime itself, in the order in which a sandbox that does everything comes to them. A verb's provider steps lie between its `row`
/// and the step after it.
pub const STEPS: [&str; 34] = [
    "create.row",
    "create.folder",
    "create.provisioned",
    "create.finished",
    "pause.row",
    "resume.row",
    "stop.row",
    "start.row",
    "checkpoint.row",
    "checkpoint.inserted",
    "checkpoint.folder",
    "checkpoint.filled",
    "checkpoint.renamed",
    "checkpoint.finished",
    "restore.row",
    "restore.pending",
    "fork.saved",
    "import.unpacked",
    "import.rows",
    "import.placed",
    "import.finished",
    "checkpoint-rm.row",
    "checkpoint-rm.folder",
    "expose.row",
    "expose.listening",
    "keeper.row",
    "keeper.listening",
    "keeper.ending",
    "destroy.row",
    "destroy.provider",
    "destroy.folder",
    "destroy.finished",
    "exec.before",
    "exec.started",
];

struct Armed {
    name: String,
    left: AtomicU32,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

fn armed() -> Option<&'static Armed> {
    let read = || {
        let text = env::var("SANDBAR_FAULT").ok().filter(|text| !text.is_empty())?;
        let (name, count) = match text.rsplit_once(':') {
            Some((name, count)) => (name.to_owned(), count.parse().unwrap_or(1)),
            None => (text, 1),
        };
        Some(Armed { name, left: AtomicU32::new(count) })
    };
    ARMED.get_or_init(read).as_ref()
}

/// Ends this process here if the test asked for it, or stops it.
pub(crate) fn point(name: &str) {
    if let Some(fault) = armed()
        && fault.name == name
        && fault.left.fetch_sub(1, Ordering::Relaxed) == 1
    {
        let signal = if env::var_os("SANDBAR_FAULT_STOPS").is_some() { Signal::STOP } else { Signal::KILL };
        let _ = kill_process(getpid(), signal);
    }
}
