use std::time::{Duration, Instant};

use sandbar_core::{CheckpointKind, SandboxSpec};
use sandbar_runtime::{ForkOptions, RestoreOptions, Sandbox};

use super::{
    Setting,
    idle::kilobytes_of,
    sandbox::{Stage, truth},
};
use crate::{Result, peer, sample::Samples, table};

/// A life of one takes seconds.
const MOST: usize = 15;
/// What all lives of one wall may take: those that are not begun by then are left out.
const BUDGET: Duration = Duration::from_secs(40);
/// Fewer say nothing.
const LEAST: usize = 3;
/// Sandboxes whose memory is measured.
const IDLE: usize = 10;
/// Forks at once.
const FORKS: [u32; 3] = [1, 10, 50];

/// An engine's own commands for what a wall upon it does.
pub trait Bare {
    /// What the commands are called: create + first exec, exec, checkpoint, restore + first exec.
    const WORDS: [&str; 4];

    /// Makes one, in which a command has run.
    async fn create(&self, name: &str) -> Result;
    /// Runs a command in one.
    async fn exec(&self, name: &str) -> Result;
    /// Saves one, which runs on.
    async fn checkpoint(&self, name: &str) -> Result;
    /// Makes one of what was saved of another, in which a command has run.
    async fn restore(&self, of: &str, name: &str) -> Result;
    /// Removes one, and what was saved of it.
    async fn end(&self, name: &str) -> Result;
    /// What the command lines of everything that runs for one contain.
    async fn mark(&self, name: &str) -> Result<String>;
}

/// A wall, and how its sandboxes are made.
pub struct Wall<'a> {
    /// The provider.
    pub provider: &'a str,
    /// The image; the provider's default when `None`.
    pub image: Option<&'a str>,
    /// What its checkpoints hold.
    pub kind: CheckpointKind,
}

impl Wall<'_> {
    async fn sandbox(&self, stage: &Stage) -> Result<Sandbox> {
        stage.sandbox(self.provider, self.image, SandboxSpec::default()).await
    }
}

/// Times of one kind of work in every round.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    async fn take(&mut self, work: impl Future<Output = Result>) -> Result {
        let begun = Instant::now();
        work.await?;
        self.0.push(begun.elapsed());
        Ok(())
    }

    /// Without the first round, which warms caches.
    fn samples(self) -> Samples {
        Samples::new(self.0.into_iter().skip(1).collect())
    }
}

/// Create, exec, checkpoint, fork and restore in turns with the engine's own commands; then forks at once, and the memory of idle ones.
pub async fn run(setting: &Setting, stage: &Stage, wall: &Wall<'_>, bare: &impl Bare) -> Result {
    lives(setting, stage, wall, bare).await?;
    forks(stage, wall).await?;
    idle(stage, wall, bare).await
}

async fn lives<B: Bare>(setting: &Setting, stage: &Stage, wall: &Wall<'_>, bare: &B) -> Result {
    let (program, home) = (setting.sandbar.display().to_string(), stage.home().display().to_string());
    let mut theirs: [Times; 4] = Default::default();
    let (mut create, mut exec, mut command, mut checkpoint) = (Times::default(), Times::default(), Times::default(), Times::default());
    let (mut fork, mut restore) = (Times::default(), Times::default());
    let begun = Instant::now();
    for round in 0..=setting.samples.min(MOST) {
        if round > LEAST && begun.elapsed() > BUDGET {
            break;
        }
        let (first, second) = (format!("bench-{}-{round}", std::process::id()), format!("bench-{}-{round}-r", std::process::id()));
        theirs[0].take(bare.create(&first)).await?;
        theirs[1].take(bare.exec(&first)).await?;
        theirs[2].take(bare.checkpoint(&first)).await?;
        theirs[3].take(bare.restore(&first, &second)).await?;
        bare.end(&second).await?;
        bare.end(&first).await?;

        let mut made = Vec::new();
        create
            .take(async {
                made.push(wall.sandbox(stage).await?);
                truth(&made[0]).await
            })
            .await?;
        let sandbox = made.remove(0);
        exec.take(truth(&sandbox)).await?;
        let words = ["--home", &home, "exec", sandbox.id().as_str(), "--", "/bin/true"].map(str::to_owned);
        command.take(peer::run(&program, &words)).await?;
        let mut saved = String::new();
        checkpoint
            .take(async {
                saved = sandbox.checkpoint(wall.kind, None).await?.id.to_string();
                Ok(())
            })
            .await?;
        let mut forks = Vec::new();
        fork.take(async {
            forks = stage.runtime.fork(&saved, 1, ForkOptions::default()).await?;
            truth(&forks[0]).await
        })
        .await?;
        restore
            .take(async {
                sandbox.restore(&saved, RestoreOptions::default()).await?;
                truth(&sandbox).await
            })
            .await?;
        for fork in forks.iter().chain([&sandbox]) {
            fork.destroy().await?;
        }
        stage.runtime.remove_checkpoint(&saved).await?;
    }
    let [first, second, third, fourth] = theirs;
    let tables: [(Times, &[&str], Vec<Times>); 4] = [
        (first, &["sandbar, library: create + first exec"], vec![create]),
        (second, &["sandbar, library: exec", "`sandbar exec`"], vec![exec, command]),
        (third, &["sandbar, library: checkpoint"], vec![checkpoint]),
        (fourth, &["sandbar, library: fork + first exec", "sandbar, library: restore in place + first exec"], vec![fork, restore]),
    ];
    for ((bare, names, ours), word) in tables.into_iter().zip(B::WORDS) {
        let ours = names.iter().map(|name| (*name).to_owned()).zip(ours.into_iter().map(Times::samples));
        table::ratios(&[(word.to_owned(), bare.samples())].into_iter().chain(ours).collect::<Vec<_>>());
    }
    Ok(())
}

/// How long many forks at once take.
async fn forks(stage: &Stage, wall: &Wall<'_>) -> Result {
    let sandbox = wall.sandbox(stage).await?;
    let saved = sandbox.checkpoint(wall.kind, None).await?;
    let mut rows = Vec::new();
    for count in FORKS {
        let begun = Instant::now();
        // The others are worth having without one that fails.
        let row = match forked(stage, saved.id.as_str(), count).await {
            Ok(()) => [table::milliseconds(begun.elapsed()), table::milliseconds(begun.elapsed() / count)],
            Err(error) => [format!("failed: {error}"), String::new()],
        };
        rows.push([count.to_string()].into_iter().chain(row).collect());
        stage.clear_but(&sandbox).await?;
    }
    sandbox.destroy().await?;
    stage.runtime.remove_checkpoint(saved.id.as_str()).await?;
    table::rows(&["forks at once", "ms until each has run a command", "ms for each"], &rows);
    Ok(())
}

async fn forked(stage: &Stage, saved: &str, count: u32) -> Result {
    for fork in stage.runtime.fork(saved, count, ForkOptions::default()).await? {
        truth(&fork).await?;
    }
    Ok(())
}

/// Memory of idle ones, by both: of every process that the engine has for them.
async fn idle<B: Bare>(stage: &Stage, wall: &Wall<'_>, bare: &B) -> Result {
    let names: Vec<String> = (0..IDLE).map(|index| format!("bench-{}-idle-{index}", std::process::id())).collect();
    let mut marks = Vec::new();
    for name in &names {
        bare.create(name).await?;
        marks.push(bare.mark(name).await?);
    }
    let theirs = kilobytes_of(&marks)?;
    for name in &names {
        bare.end(name).await?;
    }
    let (mut sandboxes, mut marks) = (Vec::new(), Vec::new());
    for _ in 0..IDLE {
        let sandbox = wall.sandbox(stage).await?;
        truth(&sandbox).await?;
        marks.push(bare.mark(sandbox.id().as_str()).await?);
        sandboxes.push(sandbox);
    }
    let ours = kilobytes_of(&marks)?;
    for sandbox in &sandboxes {
        sandbox.destroy().await?;
    }
    let each = |kilobytes: u64| format!("{:.1}", kilobytes as f64 / 1024.0 / IDLE as f64);
    let row = |name: &str, kilobytes: u64| vec![name.to_owned(), each(kilobytes), format!("{:.2}", kilobytes as f64 / theirs as f64)];
    let header = format!("{IDLE} idle ones: proportional set size of all their processes");
    table::rows(&[&header, "MiB for each", "ratio"], &[row(B::WORDS[0], theirs), row("sandbar", ours)]);
    Ok(())
}
