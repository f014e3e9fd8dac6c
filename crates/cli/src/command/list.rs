use clap::Args;
use sandbar_core::{ErrorKind, SandboxStats, State};
use sandbar_runtime::{Runtime, SandboxSummary};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::{
    error::Outcome,
    output::{self, Table, ago, bytes},
};

/// List the sandboxes
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print only the ids
    #[arg(short = 'q', long, conflicts_with = "json")]
    quiet: bool,
}

impl Ls {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let sandboxes = runtime.list().await?;
        if self.json {
            return output::json(&sandboxes);
        }
        if self.quiet {
            return output::raw(sandboxes.iter().map(|sandbox| format!("{}\n", sandbox.id)).collect::<String>().as_bytes());
        }
        let mut table = Table::new(&["ID", "NAME", "STATE", "PROVIDER", "IMAGE", "CREATED", "PORTS"]);
        for sandbox in sandboxes {
            let ports = sandbox.ports.iter().map(|port| format!("{}->{}", port.listen, port.port)).collect::<Vec<_>>().join(" ");
            table.row([
                sandbox.id.to_string(),
                sandbox.name.unwrap_or_default(),
                sandbox.state.to_string(),
                sandbox.provider,
                sandbox.image,
                format!("{} ago", ago(sandbox.created_ms)),
                ports,
            ]);
        }
        table.print()
    }
}

/// Print everything that is known of a sandbox, as JSON
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// Accepted for likeness with the listings; the answer is always JSON
    #[arg(long)]
    json: bool,
    /// The sandbox
    id: String,
}

impl Inspect {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        output::json(&runtime.sandbox(&self.id).await?.inspect().await?)
    }
}

/// Show what sandboxes use
///
/// One sandbox, or all that run.
#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The sandbox
    id: Option<String>,
}

#[derive(Debug, Serialize)]
struct Usage {
    id: String,
    name: Option<String>,
    #[serde(flatten)]
    stats: SandboxStats,
}

impl Stats {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let usages = match &self.id {
            Some(id) => {
                let sandbox = runtime.sandbox(id).await?;
                let usage =
                    Usage { id: sandbox.id().to_string(), name: sandbox.name().map(ToOwned::to_owned), stats: sandbox.stats().await? };
                if self.json {
                    return output::json(&usage);
                }
                vec![usage]
            }
            None => all(runtime).await?,
        };
        if self.json {
            return output::json(&usages);
        }
        let mut table = Table::new(&["ID", "NAME", "MEMORY", "CPU", "PROCESSES", "DISK", "SENT", "RECEIVED"]);
        for Usage { id, name, stats } in usages {
            table.row([
                id,
                name.unwrap_or_default(),
                used(stats.memory_bytes, stats.memory_limit_bytes),
                stats.cpu_micros.map(|micros| format!("{:.2}s", micros as f64 / 1e6)).unwrap_or_default(),
                stats.pids.map(|pids| pids.to_string()).unwrap_or_default(),
                used(stats.disk_bytes, stats.disk_limit_bytes),
                used(stats.network_sent_bytes, None),
                used(stats.network_received_bytes, None),
            ]);
        }
        table.print()
    }
}

/// The running ones, asked at the same time. One that ended meanwhile is left out.
async fn all(runtime: &Runtime) -> Outcome<Vec<Usage>> {
    let running: Vec<SandboxSummary> = runtime.list().await?.into_iter().filter(|sandbox| sandbox.state == State::Running).collect();
    let mut asked = JoinSet::new();
    for (index, summary) in running.into_iter().enumerate() {
        let sandbox = match runtime.sandbox(summary.id.as_str()).await {
            Ok(sandbox) => sandbox,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        asked.spawn(async move { (index, summary, sandbox.stats().await) });
    }
    let mut usages = Vec::new();
    for (index, summary, stats) in asked.join_all().await {
        match stats {
            Ok(stats) => usages.push((index, Usage { id: summary.id.to_string(), name: summary.name, stats })),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unavailable | ErrorKind::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    usages.sort_by_key(|(index, _)| *index);
    Ok(usages.into_iter().map(|(_, usage)| usage).collect())
}

fn used(value: Option<u64>, limit: Option<u64>) -> String {
    match (value, limit) {
        (Some(value), Some(limit)) => format!("{} / {}", bytes(value), bytes(limit)),
        (Some(value), None) => bytes(value),
        (None, _) => String::new(),
    }
}
