use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sandbar_core::{CheckpointKind, SandboxSpec};
use sandbar_runtime::{ForkOptions, RestoreOptions, Sandbox};

use super::{
    idle::private_kilobytes_of,
    sandbox::{Stage, truth},
};
use crate::{
    Result,
    peer::machine::{Bare, Monitor},
    sample::Samples,
    table,
};

/// Booting an emulated machine takes seconds.
const ROUNDS: usize = 5;
/// Rounds of what takes less than one.
const LOADS: usize = 10;
/// Forks at once.
const FORKS: [u32; 3] = [1, 4, 16];
/// Forks whose memory is measured.
const IDLE: u32 = 8;

/// Virtual machines: the same things by the monitor alone, with the same kernel.
pub async fn run(stage: &Stage, provider: &'static str) -> Result {
    let Some(found) = find(stage, provider).await? else { return Ok(()) };
    let wall = Wall { stage, provider, image: &found.image };
    let (bare, accelerator) = found.bare(stage, provider)?;
    table::heading(&format!("{provider} ({accelerator}), beside the monitor alone with the same kernel and 512 MiB"));
    boots(&wall, &bare, found.first).await?;
    loads(&wall, &bare).await
}

/// Many machines from one saved memory, and what each has for itself.
pub async fn run_many(stage: &Stage, provider: &'static str) -> Result {
    let Some(found) = find(stage, provider).await? else { return Ok(()) };
    let (bare, accelerator) = found.bare(stage, provider)?;
    table::heading(&format!("{provider} ({accelerator}): machines from one memory"));
    forks(&Wall { stage, provider, image: &found.image }, &bare).await
}

/// What machines are made from.
struct Found {
    image: String,
    kernel: PathBuf,
    busybox: PathBuf,
    /// How long the very first one took.
    first: Duration,
}

impl Found {
    /// The monitor by itself, and its accelerator.
    fn bare(&self, stage: &Stage, provider: &str) -> Result<(Bare, String)> {
        let mut parts = stage.runtime.templates()?.into_iter().flat_map(|template| template.parts);
        let accelerator = parts.find(|(name, _)| name == "accelerator").map_or("kvm".to_owned(), |(_, value)| value);
        let monitor = match provider {
            "qemu" => Monitor::Qemu(accelerator.clone()),
            _ => Monitor::Firecracker(program("firecracker").unwrap_or_else(|| "firecracker".into())),
        };
        Ok((Bare::new(monitor, &self.kernel.join("vmlinux"), &self.busybox)?, accelerator))
    }
}

/// Makes the first machine, which boots and becomes the template; nothing, and says why, where that cannot be.
async fn find(stage: &Stage, provider: &'static str) -> Result<Option<Found>> {
    let Some((kernel, busybox)) = lab().zip(busybox()) else {
        table::heading(provider);
        table::paragraph("There is no kernel, or no static busybox: `cargo xtask setup` gets them.");
        return Ok(None);
    };
    let image = prepare(stage, &kernel, &busybox).await?;
    let begun = Instant::now();
    match (Wall { stage, provider, image: &image }).create().await {
        Ok(sandbox) => {
            let first = begun.elapsed();
            sandbox.destroy().await?;
            Ok(Some(Found { image, kernel, busybox, first }))
        }
        Err(error) => {
            table::heading(provider);
            table::paragraph(&format!("not here: {error}"));
            Ok(None)
        }
    }
}

struct Wall<'a> {
    stage: &'a Stage,
    provider: &'a str,
    image: &'a str,
}

impl Wall<'_> {
    /// Makes one, in which a command has run.
    async fn create(&self) -> Result<Sandbox> {
        let sandbox = self.stage.sandbox(self.provider, Some(self.image), SandboxSpec::default()).await?;
        truth(&sandbox).await?;
        Ok(sandbox)
    }
}

async fn time(work: impl Future<Output = Result>) -> Result<Duration> {
    let begun = Instant::now();
    work.await?;
    Ok(begun.elapsed())
}

/// The monitor boots its kernel to the first program, beside a sandbox.
async fn boots(wall: &Wall<'_>, bare: &Bare, first: Duration) -> Result {
    let (mut theirs, mut ours, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(time(bare.boot()).await?);
        let mut made = None;
        ours.push(
            time(async {
                made = Some(wall.create().await?);
                Ok(())
            })
            .await?,
        );
        let Some(sandbox) = made else { return Err("no sandbox".into()) };
        sandbox.stop().await?;
        // What has a disk of its own is booted.
        stopped.push(
            time(async {
                sandbox.start().await?;
                truth(&sandbox).await
            })
            .await?,
        );
        sandbox.destroy().await?;
    }
    table::ratios(&[
        ("the monitor boots to the first program".to_owned(), Samples::new(theirs)),
        ("sandbar, library: create + first exec, from the template".to_owned(), Samples::new(ours)),
        ("sandbar, library: start + first exec, which boots".to_owned(), Samples::new(stopped)),
        ("sandbar, library: the very first create, which boots and saves the template".to_owned(), Samples::new(vec![first])),
    ]);
    Ok(())
}

/// The monitor loads saved memory until its program goes on, beside fork and restore.
async fn loads(wall: &Wall<'_>, bare: &Bare) -> Result {
    bare.save().await?;
    let sandbox = wall.create().await?;
    let saved = sandbox.checkpoint(CheckpointKind::Memory, None).await?.id.to_string();
    let (mut theirs, mut forked, mut restored) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LOADS {
        theirs.push(time(bare.load()).await?);
        let mut forks = Vec::new();
        forked.push(
            time(async {
                forks = wall.stage.runtime.fork(&saved, 1, ForkOptions::default()).await?;
                truth(&forks[0]).await
            })
            .await?,
        );
        for fork in forks {
            fork.destroy().await?;
        }
        restored.push(
            time(async {
                sandbox.restore(&saved, RestoreOptions::default()).await?;
                truth(&sandbox).await
            })
            .await?,
        );
    }
    sandbox.destroy().await?;
    wall.stage.runtime.remove_checkpoint(&saved).await?;
    table::ratios(&[
        ("the monitor loads memory, until its program goes on".to_owned(), Samples::new(theirs)),
        ("sandbar, library: fork + first exec".to_owned(), Samples::new(forked)),
        ("sandbar, library: restore in place + first exec".to_owned(), Samples::new(restored)),
    ]);
    Ok(())
}

/// How long forks at once take, beside the monitor that loads one, and what an idle one costs beyond the memory that all share.
async fn forks(wall: &Wall<'_>, bare: &Bare) -> Result {
    bare.save().await?;
    let mut theirs = Vec::new();
    for _ in 0..LOADS {
        theirs.push(time(bare.load()).await?);
    }
    let theirs = table::milliseconds(Samples::new(theirs).p50());
    let sandbox = wall.create().await?;
    let saved = sandbox.checkpoint(CheckpointKind::Memory, None).await?.id.to_string();
    let mut rows = vec![vec!["one, by the monitor alone, until its program goes on (p50)".to_owned(), theirs.clone(), theirs]];
    for count in FORKS {
        let took = time(async {
            for fork in wall.stage.runtime.fork(&saved, count, ForkOptions::default()).await? {
                truth(&fork).await?;
            }
            Ok(())
        })
        .await?;
        rows.push(vec![count.to_string(), table::milliseconds(took), table::milliseconds(took / count)]);
        wall.stage.clear_but(&sandbox).await?;
    }
    table::rows(&["forks at once", "ms until each has run a command", "ms for each"], &rows);
    let forks = wall.stage.runtime.fork(&saved, IDLE, ForkOptions::default()).await?;
    for fork in &forks {
        truth(fork).await?;
    }
    let marks: Vec<String> = forks.iter().map(|fork| fork.id().to_string()).collect();
    let private = private_kilobytes_of(&marks)? as f64 / 1024.0 / f64::from(IDLE);
    table::rows(
        &[&format!("{IDLE} idle forks"), "MiB for each"],
        &[vec!["memory of all their processes that is their own: beyond the shared image".to_owned(), format!("{private:.1}")]],
    );
    wall.stage.clear().await?;
    wall.stage.runtime.remove_checkpoint(&saved).await?;
    Ok(())
}

/// A kernel and an image in the state folder; the image's name.
async fn prepare(stage: &Stage, kernel: &Path, busybox: &Path) -> Result<String> {
    stage.runtime.import_kernel(kernel.join("vmlinux"), Some(kernel.join("modules")), None).await?;
    let tree = stage.home().join("tree");
    fs::create_dir_all(tree.join("bin"))?;
    fs::copy(busybox, tree.join("bin/busybox"))?;
    for name in ["sh", "true"] {
        symlink("busybox", tree.join("bin").join(name))?;
    }
    Ok(stage.runtime.import_image(&tree, Some("busybox")).await?.id.to_string())
}

/// What `cargo xtask setup` has got from the distribution.
fn lab() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab");
    fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).filter(|path| path.join("modules").exists()).max()
}

fn program(name: &str) -> Option<PathBuf> {
    Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab/bin").join(name)).filter(|path| path.exists())
}

fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"].iter().map(PathBuf::from).find(|path| path.exists())
}
