use std::{
    fs,
    time::{Duration, Instant},
};

use sandbar_core::{CheckpointKind, Limits, SandboxId};
use sandbar_runtime::ForkOptions;

use super::{
    Setting,
    sandbox::{Stage, truth},
};
use crate::{
    Result,
    peer::{answers, runc::Runc},
    sample::Samples,
    table,
};

/// What `runsc` is told, and our own wall tells it.
const OPTIONS: [&str; 3] = ["--network=none", "--overlay2=none", "--platform=systrap"];
/// A life of one takes a second or two.
const MOST: usize = 15;
/// Sandboxes whose memory is measured.
const IDLE: usize = 10;

/// Times of one kind of work, by both.
#[derive(Default)]
struct Pair {
    bare: Vec<Duration>,
    ours: Vec<Duration>,
}

/// gVisor: the same things by `runsc` alone.
pub async fn run(setting: &Setting) -> Result {
    table::heading("gvisor, beside `runsc` alone");
    if !answers("runsc", &["--version"]).await || !Runc::is_here().await {
        table::paragraph("runsc (or runc, which writes its bundle) is not installed.");
        return Ok(());
    }
    let samples = setting.samples.min(MOST);
    let stage = Stage::new().await?;
    let runsc = Runc::of("runsc", &OPTIONS)?;
    let (mut create, mut exec, mut checkpoint, mut restore) = (Pair::default(), Pair::default(), Pair::default(), Pair::default());
    for round in 0..=samples {
        let image = tempfile::tempdir()?;
        let (first, second) = (format!("bench-{}-{round}", std::process::id()), format!("bench-{}-{round}-r", std::process::id()));
        let begun = Instant::now();
        runsc.start_idle(&first).await?;
        runsc.exec(&first).await?;
        create.bare.push(begun.elapsed());
        let begun = Instant::now();
        runsc.exec(&first).await?;
        exec.bare.push(begun.elapsed());
        let begun = Instant::now();
        runsc.checkpoint(&first, image.path()).await?;
        checkpoint.bare.push(begun.elapsed());
        let begun = Instant::now();
        runsc.restore(&second, image.path()).await?;
        restore.bare.push(begun.elapsed());
        runsc.end_idle(&first).await?;
        runsc.end_idle(&second).await?;

        let begun = Instant::now();
        let sandbox = stage.sandbox("gvisor", Limits::default()).await?;
        truth(&sandbox).await?;
        create.ours.push(begun.elapsed());
        let begun = Instant::now();
        truth(&sandbox).await?;
        exec.ours.push(begun.elapsed());
        let begun = Instant::now();
        let saved = sandbox.checkpoint(CheckpointKind::Memory, None).await?;
        checkpoint.ours.push(begun.elapsed());
        let begun = Instant::now();
        let forks = stage.runtime.fork(saved.id.as_str(), 1, ForkOptions::default()).await?;
        for fork in &forks {
            truth(fork).await?;
        }
        restore.ours.push(begun.elapsed());
        for fork in forks.iter().chain([&sandbox]) {
            fork.destroy().await?;
        }
        stage.runtime.remove_checkpoint(saved.id.as_str()).await?;
    }
    for (bare, ours, pair) in [
        ("`runsc run` + `runsc exec`", "sandbar, library: create + first exec", create),
        ("`runsc exec`", "sandbar, library: exec", exec),
        ("`runsc checkpoint --leave-running`", "sandbar, library: checkpoint with memory and layer", checkpoint),
        ("`runsc restore`", "sandbar, library: fork with memory + first exec", restore),
    ] {
        // The first round warms caches.
        let times = |times: Vec<Duration>| Samples::new(times.into_iter().skip(1).collect());
        table::ratios(&[(bare.to_owned(), times(pair.bare)), (ours.to_owned(), times(pair.ours))]);
    }
    forks(&stage).await?;
    idle(&stage).await
}

/// How long many forks at once take.
async fn forks(stage: &Stage) -> Result {
    let sandbox = stage.sandbox("gvisor", Limits::default()).await?;
    let saved = sandbox.checkpoint(CheckpointKind::Memory, None).await?;
    let mut rows = Vec::new();
    for count in [1, 10, 50] {
        let begun = Instant::now();
        let forks = stage.runtime.fork(saved.id.as_str(), count, ForkOptions::default()).await?;
        for fork in &forks {
            truth(fork).await?;
        }
        let all = begun.elapsed();
        rows.push(vec![count.to_string(), table::milliseconds(all), table::milliseconds(all / count)]);
        for fork in &forks {
            fork.destroy().await?;
        }
    }
    sandbox.destroy().await?;
    stage.runtime.remove_checkpoint(saved.id.as_str()).await?;
    table::rows(&["forks with memory at once", "ms until all have run a command", "ms for each"], &rows);
    Ok(())
}

/// Memory of idle sandboxes: proportional set size of everything that `runsc` has started for them.
async fn idle(stage: &Stage) -> Result {
    let mut sandboxes = Vec::new();
    for _ in 0..IDLE {
        let sandbox = stage.sandbox("gvisor", Limits::default()).await?;
        truth(&sandbox).await?;
        sandboxes.push(sandbox);
    }
    let ids: Vec<&SandboxId> = sandboxes.iter().map(|sandbox| sandbox.id()).collect();
    let mut kilobytes = 0;
    for entry in fs::read_dir("/proc")?.flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        if line.starts_with("runsc") && ids.iter().any(|id| line.contains(id.as_str())) {
            kilobytes += super::idle::proportional_size(&entry.path());
        }
    }
    for sandbox in &sandboxes {
        sandbox.destroy().await?;
    }
    let each = format!("{:.1}", kilobytes as f64 / 1024.0 / IDLE as f64);
    table::rows(
        &["", "MiB per sandbox"],
        &[vec![format!("{IDLE} idle gvisor sandboxes, `runsc run` and sentry, proportional set size"), each]],
    );
    Ok(())
}
