use clap::{Args, Subcommand};
use sandbar_core::CheckpointKind;
use sandbar_runtime::{ForkOptions, RestoreOptions, Runtime};

use super::{
    options,
    portable::{Export, Import},
};
use crate::{
    error::{Failure, Outcome, usage},
    output::{self, Table, ago, bytes},
};

/// Save the state of a sandbox, to go back to or to fork from
///
/// Prints the checkpoint's id. Processes are frozen meanwhile and go on afterwards. `export` and `import` take one elsewhere as a file, `rm` removes
/// some.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  CP=$(sandbar checkpoint web --name clean)
  sandbar restore web clean
  sandbar fork clean -n 4
  sandbar checkpoint export clean clean.tar
  sandbar checkpoint rm clean"
)]
pub(crate) struct Checkpoint {
    #[command(subcommand)]
    action: Option<Action>,
    /// Save the processes and their memory as well, not only the files
    #[arg(long)]
    with_memory: bool,
    /// A name to call it by
    #[arg(long)]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The sandbox
    #[arg(required = true)]
    id: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Action {
    Export(Export),
    Import(Import),
    /// Remove checkpoints
    Rm {
        /// The checkpoints
        #[arg(required = true, value_name = "CHECKPOINT")]
        checkpoints: Vec<String>,
    },
}

impl Checkpoint {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome<u8> {
        match self.action {
            None => {}
            Some(Action::Export(export)) => return export.run(runtime).await,
            Some(Action::Import(import)) => return import.run(runtime).await,
            Some(Action::Rm { checkpoints }) => {
                let mut errors = Vec::new();
                for checkpoint in checkpoints {
                    errors.extend(runtime.remove_checkpoint(&checkpoint).await.err());
                }
                return Failure::from_all(errors).map(|()| 0);
            }
        }
        let id = self.id.ok_or_else(|| usage("which sandbox?"))?;
        let kind = if self.with_memory { CheckpointKind::Memory } else { CheckpointKind::Disk };
        let saved = runtime.sandbox(&id).await?.checkpoint(kind, self.name).await?;
        if self.json { output::json(&saved) } else { output::line(saved.id.as_str()) }?;
        Ok(0)
    }
}

/// List the checkpoints
#[derive(Debug, Args)]
pub(crate) struct Checkpoints {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Only those of this sandbox
    id: Option<String>,
}

impl Checkpoints {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let checkpoints = runtime.checkpoints(self.id.as_deref()).await?;
        if self.json {
            return output::json(&checkpoints);
        }
        let mut table = Table::new(&["ID", "NAME", "SANDBOX", "KIND", "PROVIDER", "IMAGE", "SIZE", "FILES", "CREATED"]);
        for checkpoint in checkpoints {
            table.row([
                checkpoint.id.to_string(),
                checkpoint.name.unwrap_or_default(),
                checkpoint.sandbox.to_string(),
                match checkpoint.kind {
                    CheckpointKind::Disk => "disk",
                    CheckpointKind::Memory => "memory",
                }
                .to_owned(),
                checkpoint.provider,
                checkpoint.image,
                bytes(checkpoint.bytes),
                checkpoint.files.to_string(),
                format!("{} ago", ago(checkpoint.created_ms)),
            ]);
        }
        table.print()
    }
}

/// Put a sandbox back to a checkpoint, in place
///
/// The sandbox keeps its id, name, volumes and ports. If the checkpoint cannot be brought up, the sandbox runs on as it was.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The sandbox
    id: String,
    /// The checkpoint
    checkpoint: String,
    /// Take its disk alone, and start anew on it
    #[arg(long)]
    without_memory: bool,
}

impl Restore {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        runtime.sandbox(&self.id).await?.restore(&self.checkpoint, RestoreOptions { without_memory: self.without_memory }).await?;
        Ok(())
    }
}

/// Make new sandboxes from a checkpoint, or from a sandbox as it is now
///
/// Prints one id a line.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandbar fork clean -n 4
  sandbar fork web --name experiment")]
pub(crate) struct Fork {
    /// How many
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// The wall to use, instead of the original's
    #[arg(long, value_name = "PROVIDER")]
    on: Option<String>,
    /// A name for it; of several, the beginning of their names
    #[arg(long)]
    name: Option<String>,
    /// Of a checkpoint with memory, take the disk alone and start anew on it
    #[arg(long)]
    without_memory: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The checkpoint, or the sandbox
    #[arg(value_name = "CHECKPOINT|ID")]
    from: String,
}

impl Fork {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        if self.on.as_deref() == Some(options::NO_WALL) {
            options::warn_of_no_wall();
        }
        let options = ForkOptions { name: self.name, provider: self.on, without_memory: self.without_memory, ..ForkOptions::default() };
        let forks = runtime.fork(&self.from, self.count, options).await?;
        if !self.json {
            return output::raw(forks.iter().map(|fork| format!("{}\n", fork.id())).collect::<String>().as_bytes());
        }
        let mut summaries = Vec::with_capacity(forks.len());
        for fork in forks {
            summaries.push(fork.summary().await?);
        }
        output::json(&summaries)
    }
}
