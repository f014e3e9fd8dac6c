use clap::Args;
use sandbar_core::{ErrorKind, Signal};
use sandbar_runtime::Runtime;

use crate::{
    error::Outcome,
    output::{self, Table, ago},
    session::{End, Session},
    signals::Signals,
    terminal,
};

/// List the commands of a sandbox
///
/// Those that exec started: all that run, and the last that ended.
#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The sandbox
    id: String,
}

impl Ps {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let processes = runtime.sandbox(&self.id).await?.processes().await?;
        if self.json {
            return output::json(&processes);
        }
        let mut table = Table::new(&["PID", "STATUS", "STARTED", "TTY", "ATTACHED", "OUTPUT", "COMMAND"]);
        for process in processes {
            table.row([
                process.pid.to_string(),
                process.status.map_or_else(|| "running".to_owned(), |status| status.to_string()),
                format!("{} ago", ago(process.started_ms)),
                if process.pty { "yes" } else { "no" }.to_owned(),
                process.attached.to_string(),
                output::bytes(process.output_end),
                process.command,
            ]);
        }
        table.print()
    }
}

/// Connect to a command that runs in a sandbox
///
/// Prints the output that was kept, then what comes. With a terminal, ctrl-p ctrl-q detaches and leaves the command running.
/// Exits with the command's own status.
#[derive(Debug, Args)]
pub(crate) struct Attach {
    /// Begin at this byte of its output, instead of the oldest that is kept
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Pass standard input on to a command that has no terminal
    #[arg(short = 'i', long)]
    interactive: bool,
    /// The sandbox
    id: String,
    /// The command's process id, from `ps` or `exec -d`
    pid: u32,
}

impl Attach {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome<u8> {
        let sandbox = runtime.sandbox(&self.id).await?;
        let pty = sandbox.processes().await?.iter().any(|process| process.pid == self.pid && process.pty && process.status.is_none());
        let mut signals = Signals::listen()?;
        let stream = sandbox.reattach(self.pid, self.from).await?;
        let stdin = self.interactive || pty && terminal::stdin_is_terminal();
        let session = Session { stdin, pty, detach_keys: true, outlives_us: true };
        let end = session.drive(&sandbox, stream, &mut signals).await?;
        if end == End::Detached {
            output::note(&format!("\ndetached; to connect again: sandbar attach {} {}", self.id, self.pid));
        }
        Ok(end.status())
    }
}

/// Send a signal to a command of a sandbox, and all it started
#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The signal, by name or number
    #[arg(short = 's', long, default_value = "TERM")]
    signal: Signal,
    /// The sandbox
    id: String,
    /// The command's process id, from `ps` or `exec -d`
    pid: u32,
}

impl Kill {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let sandbox = runtime.sandbox(&self.id).await?;
        sandbox.signal(self.pid, self.signal).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.with_hint(format!("sandbar ps {} lists its commands", self.id)),
            _ => error,
        })?;
        Ok(())
    }
}
