use clap::Args;
use sandbar_core::{Error, ErrorKind, ExecEvent, OutputKind, ProcessInfo};
use sandbar_runtime::{Runtime, Sandbox};
use tokio::task::JoinSet;

use crate::{
    error::{Failure, Outcome},
    output::{self, Relay},
};

/// Print the output of a sandbox's commands
///
/// What is kept of it: of one command, or of all in the order they were started. Their standard output goes to standard output and their
/// standard error to standard error.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on with what comes, until the commands end
    #[arg(short = 'f', long)]
    follow: bool,
    /// The sandbox
    id: String,
    /// The command's process id, from `ps` or `exec -d`
    pid: Option<u32>,
}

impl Logs {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let sandbox = runtime.sandbox(&self.id).await?;
        let mut processes = sandbox.processes().await?;
        if let Some(pid) = self.pid {
            processes.retain(|process| process.pid == pid);
            if processes.is_empty() {
                let error = Error::new(ErrorKind::NotFound, "logs", "no such command").with("pid", pid);
                return Err(error.with_hint(format!("sandbar ps {} lists its commands", self.id)).into());
            }
        }
        processes.sort_by_key(|process| (process.started_ms, process.pid));
        let several = processes.len() > 1;
        let mut following = JoinSet::new();
        for process in processes {
            if self.follow && process.status.is_none() {
                let sandbox = sandbox.clone();
                following.spawn(async move { print(&sandbox, &process, true).await });
                continue;
            }
            if several {
                output::note(&format!("==> {} {}", process.pid, process.command));
            }
            print(&sandbox, &process, false).await?;
        }
        while let Some(ended) = following.join_next().await {
            ended.map_err(|error| Error::new(ErrorKind::Internal, "logs", "following failed").with_source(error))??;
        }
        Ok(())
    }
}

/// Prints the output of one command: all that is kept now, and what comes if `follow`.
async fn print(sandbox: &Sandbox, process: &ProcessInfo, follow: bool) -> Outcome {
    if !follow && process.output_end == process.output_start {
        return Ok(());
    }
    let mut output = sandbox.reattach(process.pid, None).await?.output;
    let mut relay = Relay::new();
    while let Some(event) = output.next().await? {
        let (written, reached) = match event {
            ExecEvent::Output { kind, offset, data } => {
                let end = offset + data.len() as u64;
                (relay.write(kind, data).await, end)
            }
            ExecEvent::Lost { bytes } => {
                let text = format!("sandbar: {bytes} bytes of output are not kept any more\n");
                (relay.write(OutputKind::Stderr, text.into()).await, 0)
            }
            ExecEvent::Exited(_) => break,
        };
        written.map_err(Failure::output)?;
        if !follow && reached >= process.output_end {
            break;
        }
    }
    relay.flush().await.map_err(Failure::output)
}
