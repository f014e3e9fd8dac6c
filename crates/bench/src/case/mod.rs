//! What is measured: one file per table.

mod create;
mod docker;
mod exec;
mod gvisor;
mod idle;
mod limits;
mod parallel;
mod sandbox;
mod stream;

use std::path::PathBuf;

use crate::{Result, table};

/// How to measure.
pub struct Setting {
    /// Samples per row.
    pub samples: usize,
    /// Idle sandboxes.
    pub idle: usize,
    /// The program.
    pub sandbar: PathBuf,
}

/// Runs every case whose name contains `only`. A case that fails is told, and the others run.
pub async fn run(setting: &Setting, only: Option<&str>) -> Result {
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let mut failed = Vec::new();
    for name in ["exec", "create", "limits", "stream", "parallel", "idle", "gvisor", "docker"] {
        if !wanted(name) {
            continue;
        }
        let outcome = match name {
            "exec" => exec::run(setting).await,
            "create" => create::run(setting).await,
            "limits" => limits::run(setting).await,
            "stream" => stream::run(setting).await,
            "parallel" => parallel::run(setting).await,
            "gvisor" => gvisor::run(setting).await,
            "docker" => docker::run(setting).await,
            _ => idle::run(setting).await,
        };
        if let Err(error) = outcome {
            table::paragraph(&format!("`{name}` failed: {error}"));
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", ")).into()) }
}
