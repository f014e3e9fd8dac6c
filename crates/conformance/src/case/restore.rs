use sandbar_core::{
    ExecRequest,
    Feature::{DiskCheckpoint, Restore, VolumeReadWrite},
    State,
};
use tokio::time::timeout;

use crate::{
    Context, Failure,
    Reach::{HostProcesses, Shell},
    case::volume,
    failure::{ensure, ensure_eq},
    host,
    sandbox::SOON,
    stream::{hears, read_all, read_until},
    suite::cases,
};

cases! { "restore";
    files_are_as_they_were [.needs(&[DiskCheckpoint, Restore])],
    it_can_be_done_again_and_again [.needs(&[DiskCheckpoint, Restore])],
    no_process_runs_afterwards [.needs(&[DiskCheckpoint, Restore])],
    open_streams_are_told [.needs(&[DiskCheckpoint, Restore])],
    old_processes_are_gone_from_the_host [.needs(&[DiskCheckpoint, Restore]).reach(&[Shell, HostProcesses])],
    a_failure_leaves_the_old_one_running [.needs(&[DiskCheckpoint, Restore])],
    volumes_stay [.needs(&[DiskCheckpoint, Restore, VolumeReadWrite]).reach(&[Shell])],
    the_state_is_running_and_committed [.needs(&[DiskCheckpoint, Restore])],
    a_stopped_sandbox_runs_afterwards [.needs(&[DiskCheckpoint, Restore, sandbar_core::Feature::StopStart])],
    nothing_of_the_old_one_is_held [.needs(&[DiskCheckpoint, Restore])],
}

async fn files_are_as_they_were(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("changed", "before").await?;
    sandbox.put("removed", "before").await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    sandbox.put("changed", "after").await?;
    sandbox.put("added", "after").await?;
    sandbox.remove_path("removed", sandbar_core::RemoveOptions::default()).await?;
    sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
    ensure_eq!(sandbox.get("changed").await?, b"before", "a changed file");
    ensure_eq!(sandbox.get("removed").await?, b"before", "a removed file");
    ensure!(!sandbox.has("added").await?, "an added file is still there");
    ensure_eq!(sandbox.text("cat changed").await?, "before", "inside");
    Ok(())
}

async fn it_can_be_done_again_and_again(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "before").await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    for round in 0..4 {
        sandbox.put("file", format!("round {round}")).await?;
        sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
        ensure_eq!(sandbox.get("file").await?, b"before", "round {round}");
    }
    Ok(())
}

async fn no_process_runs_afterwards(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    sandbox.start_shell("sleep 1000").await?;
    sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
    let running: Vec<_> = sandbox.processes().await?.into_iter().filter(|process| process.status.is_none()).collect();
    ensure!(running.is_empty(), "these run: {running:?}");
    Ok(())
}

async fn open_streams_are_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    let mut stream = sandbox.start_shell("echo ready; sleep 1000").await?;
    read_until(&mut stream, "ready\n").await?;
    sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
    let told = timeout(SOON, read_all(&mut stream)).await.map_err(|_| Failure::new("an open stream hangs"))?;
    if let Ok(told) = told {
        ensure!(told.status.is_some_and(|status| !status.success()), "an open stream says that all was well");
    }
    Ok(())
}

async fn old_processes_are_gone_from_the_host(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    let marker = host::marker();
    let mut stream = sandbox.start_shell(&format!("(setsid sleep {marker} &); echo ready; sleep {marker}")).await?;
    read_until(&mut stream, "ready\n").await?;
    sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
    ensure_eq!(host::processes_with(&marker), [0u32; 0], "processes that outlived the restore");
    Ok(())
}

async fn a_failure_leaves_the_old_one_running(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    sandbox.put("file", "kept").await?;
    let mut stream = sandbox.start_guest(&["tick", "20"]).await?;
    let nowhere = context.host_folder("nowhere")?.join("not/there");
    let outcome = timeout(SOON, sandbox.restore(Context::restore_request(&sandbox, &nowhere))).await?;
    ensure!(outcome.is_err(), "a restore from nothing succeeded");
    for _ in 0..10 {
        ensure!(hears(&mut stream, SOON).await?, "the old one does not run on");
    }
    ensure_eq!(sandbox.get("file").await?, b"kept", "a file");
    ensure_eq!(sandbox.status().await.state, State::Running, "the state");
    sandbox.kill(stream.pid).await
}

async fn volumes_stay(context: &Context) -> Result<(), Failure> {
    let (sandbox, folder) = volume::with_folder(context, false).await?;
    sandbox.text("echo before > /mnt/volume/file").await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    sandbox.text("echo after > /mnt/volume/file").await?;
    sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
    ensure_eq!(sandbox.text("cat /mnt/volume/file").await?, "after", "a file of the volume");
    ensure_eq!(std::fs::read(folder.join("file"))?, b"after\n", "the same on the host");
    Ok(())
}

async fn the_state_is_running_and_committed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
    ensure_eq!(sandbox.status().await.state, State::Running, "told");
    ensure_eq!(sandbox.journal().states().last(), Some(&State::Running), "committed");
    let other = context.subject().provider.attach(sandbox.attach_request()?).await?;
    ensure_eq!(other.status().await.state, State::Running, "by a handle from the record that was committed");
    ensure_eq!(other.exec(ExecRequest::argv(["echo", "here"])).await?.stdout_text(), "here\n", "a command by that handle");
    Ok(())
}

async fn a_stopped_sandbox_runs_afterwards(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "before").await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    sandbox.put("file", "after").await?;
    sandbox.stop().await?;
    sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
    ensure_eq!(sandbox.text("cat file").await?, "before", "a file");
    Ok(())
}

async fn nothing_of_the_old_one_is_held(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let (layer, _) = context.checkpoint(&sandbox).await?;
    let before = sandbox.journal().held();
    for _ in 0..3 {
        sandbox.restore(Context::restore_request(&sandbox, &layer)).await?;
    }
    let after = sandbox.journal().held();
    ensure_eq!(after.len(), before.len(), "resources held ({after:?})");
    Ok(())
}
