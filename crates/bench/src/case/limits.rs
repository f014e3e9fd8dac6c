use std::{fs, path::Path};

use sandbar_core::Limits;

use super::{Setting, sandbox::Stage};
use crate::{
    Result,
    peer::bwrap,
    sample::{Once, in_turns},
    table,
};

/// The controllers that three limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// Create, one command, destroy, with limits; on cgroup v1 beside `bwrap` and the kernel's own price of the `cgroup.procs` writes.
pub async fn run(setting: &Setting, stage: &Stage) -> Result {
    table::heading("create + first exec + destroy, with limits of memory, cpu and pids");
    let limits = Limits { memory: Some(512 << 20), cpu_millis: Some(1500), pids: Some(200), ..Limits::default() };
    let groups = Groups::new()?;
    let mut rows: Vec<(String, Once<'_>)> = Vec::new();
    if bwrap::is_here().await {
        let name =
            if groups.0.is_empty() { "`bwrap`, no limits" } else { "`bwrap`, no limits, + the v1 `cgroup.procs` writes side by side" };
        rows.push((name.into(), Box::new(async || groups.bwrap_and_writes().await)));
    }
    rows.push(("sandbar, library".into(), Box::new(async || stage.cycle(limits).await)));
    table::ratios(&in_turns(setting.samples, &mut rows).await?);
    Ok(())
}

/// One empty v1 group for each controller that this machine has on v1.
struct Groups(Vec<std::path::PathBuf>);

impl Groups {
    fn new() -> Result<Self> {
        let mut groups = Vec::new();
        for controller in CONTROLLERS {
            let root = Path::new("/sys/fs/cgroup").join(controller);
            if root.join("cgroup.procs").exists() {
                let group = root.join(format!("sandbar-bench-{}", std::process::id()));
                fs::create_dir(&group)?;
                groups.push(group);
            }
        }
        Ok(Self(groups))
    }

    /// One thread per group moves a child of its own there, all at once, while `bwrap` runs after them.
    async fn bwrap_and_writes(&self) -> Result {
        let writers: Vec<_> = self.0.iter().cloned().map(|group| tokio::task::spawn_blocking(move || move_a_child(&group))).collect();
        for writer in writers {
            writer.await?.map_err(|error| format!("cgroup.procs: {error}"))?;
        }
        bwrap::once().await
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            let _ = fs::remove_dir(group);
        }
    }
}

fn move_a_child(group: &Path) -> std::io::Result<()> {
    let mut child =
        std::process::Command::new("/bin/cat").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn()?;
    let written = fs::write(group.join("cgroup.procs"), child.id().to_string());
    drop(child.stdin.take());
    child.wait()?;
    written
}
