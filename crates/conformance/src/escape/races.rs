use std::io::Cursor;

use sandbar_core::{Feature::DiskCheckpoint, PutOptions, RemoveOptions};
use tokio::io::AsyncReadExt;

use super::canary::{Canary, prey};
use crate::{
    Context, Failure,
    failure::ensure,
    suite::cases,
    tarball::{Entry, pack},
};

cases! { "races";
    file_calls_lose_no_race_against_links,
    trees_lose_no_race_against_links,
    a_checkpoint_loses_no_race_against_links [.needs(&[DiskCheckpoint])],
}

const TREE: RemoveOptions = RemoveOptions { recursive: true, missing_ok: true };

/// A folder that turns into a link to the host's folder and back, as fast as can be.
async fn swapping(context: &Context) -> Result<(Canary, crate::Sandbox), Failure> {
    let canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    sandbox.make_dir("swap", false, None).await?;
    sandbox.symlink(&canary.folder.display().to_string(), "other").await?;
    sandbox.start_guest(&["attack", "swap", "swap", "other"]).await?;
    Ok((canary, sandbox))
}

async fn file_calls_lose_no_race_against_links(context: &Context) -> Result<(), Failure> {
    let (mut canary, sandbox) = swapping(context).await?;
    for _ in 0..300 {
        let _ = sandbox.put("swap/file", "changed").await;
        if let Ok(content) = sandbox.get("swap/file").await {
            ensure!(content != canary.secret.as_bytes(), "the host's file was read");
        }
        let _ = sandbox.remove_path("swap/file", TREE).await;
        let _ = sandbox.make_dir("swap/made", true, None).await;
        let _ = sandbox.rename("swap/made", "swap/renamed", false).await;
        let _ = sandbox.remove_path("swap/renamed", TREE).await;
    }
    canary.is_untouched()
}

async fn trees_lose_no_race_against_links(context: &Context) -> Result<(), Failure> {
    let (mut canary, sandbox) = swapping(context).await?;
    let bytes = pack(&[Entry::folder("below"), Entry::file("below/file", b"changed"), Entry::file("file", b"changed")])?;
    for _ in 0..150 {
        let _ = sandbox.put_dir("swap", PutOptions::default(), &mut Cursor::new(bytes.clone())).await;
        if let Ok(mut reader) = sandbox.get_dir("swap").await {
            let mut got = Vec::new();
            let _ = reader.read_to_end(&mut got).await;
            let told = got.windows(canary.secret.len()).any(|window| window == canary.secret.as_bytes());
            ensure!(!told, "the host's file came in a tree");
        }
        let _ = sandbox.remove_path("swap/below", TREE).await;
    }
    canary.is_untouched()
}

async fn a_checkpoint_loses_no_race_against_links(context: &Context) -> Result<(), Failure> {
    let (mut canary, sandbox) = swapping(context).await?;
    for _ in 0..5 {
        context.checkpoint(&sandbox).await?;
        canary.is_untouched()?;
    }
    let _ = sandbox.stats().await;
    context.destroy(&sandbox).await?;
    canary.is_untouched()
}
