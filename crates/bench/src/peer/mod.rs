//! The tools that we are measured beside.

pub mod bwrap;
pub mod docker;
#[path = "../../../conformance/tests/engines/engine.rs"]
mod engine;
pub mod machine;
pub mod nsjail;
pub mod runc;
pub mod runsc;
pub mod spawn;
#[path = "../../../conformance/tests/elsewhere/sshd.rs"]
pub mod sshd;
pub mod usernet;

use std::{process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, Command},
    time::timeout,
};

use crate::Result;

/// Runs a program to its end with no input and no output, and wants success.
pub async fn run(program: &str, arguments: &[String]) -> Result {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.output().await?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}: {}", arguments.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// The same, for what it prints.
pub async fn output(program: &str, arguments: &[String]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().await?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program} {}: {}: {}", arguments.join(" "), output.status, String::from_utf8_lossy(&output.stderr).trim()).into())
}

/// A server, until its standard input ends.
pub struct Served {
    child: Child,
    input: Option<ChildStdin>,
    /// What it needs until then.
    folder: Option<TempDir>,
}

impl Served {
    /// Starts it; returns when it has said that it is ready.
    pub async fn begin(program: &str, arguments: &[String]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("no output")?;
        let mut lines = BufReader::new(output).lines();
        match timeout(Duration::from_secs(20), lines.next_line()).await {
            Ok(Ok(Some(line))) if line == "ready" => Ok(Self { child, input, folder: None }),
            other => Err(format!("{program}: it says {other:?}, and is not ready").into()),
        }
    }

    /// Keeps a folder for it.
    pub fn with(self, folder: TempDir) -> Self {
        Self { folder: Some(folder), ..self }
    }

    /// Ends it.
    pub async fn end(mut self) -> Result {
        drop(self.input.take());
        timeout(Duration::from_secs(20), self.child.wait()).await.map_err(|_| "it does not end")??;
        self.folder.map_or(Ok(()), TempDir::close)?;
        Ok(())
    }
}

/// Whether a program answers `--version` (or whatever is asked of it).
pub async fn answers(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    status.is_ok_and(|status| status.success())
}

/// The text as arguments, split at spaces.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}
