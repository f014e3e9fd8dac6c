use sandbar_core::{
    CheckpointKind, CheckpointOptions,
    Feature::{DiskCheckpoint, Fork, StopStart},
    SandboxSpec, State,
};

use crate::{
    Context, Failure,
    Reach::{Layers, Shell},
    failure::{ensure, ensure_eq},
    sandbox::{SOON, noise},
    stream::hears,
    suite::cases,
};

cases! { "checkpoint";
    it_is_told_how_large_it_is [.needs(&[DiskCheckpoint])],
    processes_go_on_afterwards [.needs(&[DiskCheckpoint])],
    processes_go_on_after_a_failure [.needs(&[DiskCheckpoint])],
    it_holds_one_instant [.needs(&[DiskCheckpoint, Fork]).reach(&[Shell])],
    later_changes_are_not_in_it [.needs(&[DiskCheckpoint, Fork])],
    a_stopped_sandbox_can_be_saved [.needs(&[DiskCheckpoint, StopStart, Fork])],
    the_state_does_not_change [.needs(&[DiskCheckpoint])],
    it_costs_what_changed [.needs(&[DiskCheckpoint, Fork]).reach(&[Layers])],
}

async fn it_is_told_how_large_it_is(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let (_, before) = context.checkpoint(&sandbox).await?;
    sandbox.put("file", noise(3 << 20, 1)).await?;
    let (into, saved) = context.checkpoint(&sandbox).await?;
    ensure_eq!(saved.kind, CheckpointKind::Disk, "its kind");
    ensure!(into.join("layer").is_dir(), "there is no layer");
    ensure!(saved.bytes >= before.bytes + (3 << 20), "{} bytes before, {} after 3 MiB were written", before.bytes, saved.bytes);
    ensure!(saved.files > before.files, "{} files before, {} after one was written", before.files, saved.files);
    Ok(())
}

async fn processes_go_on_afterwards(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let mut stream = sandbox.start_guest(&["tick", "20"]).await?;
    for round in 0..3 {
        context.checkpoint(&sandbox).await?;
        for _ in 0..10 {
            ensure!(hears(&mut stream, SOON).await?, "it does not tick after checkpoint {round}");
        }
    }
    sandbox.kill(stream.pid).await
}

async fn processes_go_on_after_a_failure(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let mut stream = sandbox.start_guest(&["tick", "20"]).await?;
    let into = context.host_folder("gone")?.join("not/there");
    let outcome = sandbox.checkpoint(CheckpointOptions { kind: CheckpointKind::Disk, into }).await;
    ensure!(outcome.is_err(), "a checkpoint into a folder that is not there succeeded");
    for _ in 0..10 {
        ensure!(hears(&mut stream, SOON).await?, "it does not tick after the failure");
    }
    ensure_eq!(sandbox.status().await.state, State::Running, "the state");
    sandbox.kill(stream.pid).await
}

async fn it_holds_one_instant(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    // The second file is never ahead of the first, and never more than one behind.
    let line = "i=0; while :; do i=$((i+1)); echo $i > first; echo $i > second; done";
    let writer = sandbox.start_shell(line).await?;
    sandbox.until("test -s second").await?;
    for round in 0..3 {
        let (layer, _) = context.checkpoint(&sandbox).await?;
        let fork = context.fork(&sandbox, &layer, SandboxSpec::default()).await?;
        let mut counts = [0u64; 2];
        for (count, path) in counts.iter_mut().zip(["first", "second"]) {
            // A file that was saved between its being emptied and written is empty in every instant's view.
            let text = String::from_utf8_lossy(&fork.get(path).await?).trim().to_owned();
            *count = text.parse().unwrap_or(u64::MAX);
        }
        let [first, second] = counts;
        let whole = first == u64::MAX || second == u64::MAX || first == second || first == second + 1;
        ensure!(whole, "round {round}: first is {first}, second is {second}");
        context.destroy(&fork).await?;
    }
    sandbox.kill(writer.pid).await
}

async fn later_changes_are_not_in_it(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "before").await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    sandbox.put("file", "after").await?;
    sandbox.put("newer", "after").await?;
    let fork = context.fork(&sandbox, &layer, SandboxSpec::default()).await?;
    ensure_eq!(fork.get("file").await?, b"before", "a changed file");
    ensure!(!fork.has("newer").await?, "a newer file is in the checkpoint");
    ensure_eq!(sandbox.get("file").await?, b"after", "the sandbox itself");
    Ok(())
}

async fn a_stopped_sandbox_can_be_saved(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "kept").await?;
    sandbox.stop().await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    ensure_eq!(sandbox.status().await.state, State::Stopped, "the state");
    let fork = context.fork(&sandbox, &layer, SandboxSpec::default()).await?;
    ensure_eq!(fork.get("file").await?, b"kept", "the fork");
    Ok(())
}

async fn the_state_does_not_change(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    context.checkpoint(&sandbox).await?;
    ensure_eq!(sandbox.status().await.state, State::Running, "the state");
    ensure_eq!(sandbox.journal().states().last(), Some(&State::Running), "the state that was committed last");
    Ok(())
}

async fn it_costs_what_changed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("large", noise(48 << 20, 3)).await?;
    let (layer, whole) = context.checkpoint(&sandbox).await?;
    let fork = context.fork(&sandbox, &layer, SandboxSpec::default()).await?;
    fork.put("small", "x").await?;
    let (_, delta) = context.checkpoint(&fork).await?;
    ensure!(delta.bytes < whole.bytes / 10, "a fork that changed one byte is saved as {} bytes of {}", delta.bytes, whole.bytes);
    Ok(())
}
