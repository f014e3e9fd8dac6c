//! What is measured: one file per table.

mod create;
mod docker;
mod egress;
mod exec;
mod expose;
mod gvisor;
mod idle;
pub mod life;
mod limits;
mod load;
mod machine;
mod parallel;
mod sandbox;
mod server;
mod stream;
mod transfer;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;

use self::sandbox::Stage;
use crate::{Result, peer::docker::Docker, table};

/// The names of the cases, in their order.
pub const NAMES: [&str; 16] = [
    "exec",
    "create",
    "limits",
    "stream",
    "egress",
    "expose",
    "parallel",
    "idle",
    "server",
    "load",
    "gvisor",
    "docker",
    "qemu",
    "qemu-many",
    "firecracker",
    "firecracker-many",
];
/// What one case may take. Rows have budgets of their own far below: what takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(240);
/// What all of them may take: what is not done by then is told as failed.
const ALL: Duration = Duration::from_secs(450);

/// How to measure.
pub struct Setting {
    /// Samples per row.
    pub samples: usize,
    /// Idle sandboxes.
    pub idle: usize,
    /// Sandboxes that a server knows when its memory is measured.
    pub known: usize,
    /// The program.
    pub sandbar: PathBuf,
}

/// Runs every case whose name contains one of the words of `only`, or all. A case that fails is told, and the others run.
pub async fn run(setting: &Setting, only: &[String]) -> Result {
    let wanted = |name: &&str| only.is_empty() || only.iter().any(|word| name.contains(word.as_str()));
    let begun = Instant::now();
    let mut failed = Vec::new();
    for name in NAMES.into_iter().filter(wanted) {
        let left = ALL.saturating_sub(begun.elapsed());
        if let Err(error) = run_one(setting, name, DEADLINE.min(left)).await {
            table::paragraph(&format!("`{name}` failed: {error}"));
            failed.push(name);
        }
    }
    table::paragraph(&format!("All of this took {} s.", begun.elapsed().as_secs()));
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}

async fn run_one(setting: &Setting, name: &str, deadline: Duration) -> Result {
    if deadline.is_zero() {
        return Err(format!("the cases before it took {} s", ALL.as_secs()).into());
    }
    let engine = if name == "docker" { Docker::find().await } else { None };
    let stage = Arc::new(Stage::new(engine.map(Docker::host)).await?);
    let case = async {
        match name {
            "exec" => exec::run(setting, &stage).await,
            "create" => create::run(setting, &stage).await,
            "limits" => limits::run(setting, &stage).await,
            "stream" => stream::run(setting, &stage).await,
            "egress" => egress::run(setting, &stage).await,
            "expose" => expose::run(setting, &stage).await,
            "parallel" => parallel::run(setting, &stage).await,
            "server" => server::run(setting, &stage).await,
            "load" => load::run(setting, &stage).await,
            "gvisor" => gvisor::run(setting, &stage).await,
            "docker" => docker::run(setting, &stage).await,
            "qemu" => machine::run(&stage, "qemu").await,
            "qemu-many" => machine::run_many(&stage, "qemu").await,
            "firecracker-many" => machine::run_many(&stage, "firecracker").await,
            "firecracker" => machine::run(&stage, "firecracker").await,
            _ => idle::run(setting, &stage).await,
        }
    };
    let outcome = timeout(deadline, case).await;
    let cleared = stage.clear().await;
    outcome.map_err(|_| format!("not within {} s", deadline.as_secs()))??;
    cleared
}
