use std::time::Duration;

use bytes::Bytes;
use sandbar_core::{ErrorKind, ExecRequest, Feature::Pause, State};

use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure, ensure_eq, refused},
    sandbox::{SOON, soon, within_seconds},
    stream::{drain, hears, read_all, read_until},
    suite::cases,
};

cases! { "pause";
    nothing_runs_meanwhile [.needs(&[Pause])],
    processes_and_streams_go_on_afterwards [.needs(&[Pause])],
    calls_meanwhile_fail_within_seconds [.needs(&[Pause])],
    the_state_is_told_and_committed [.needs(&[Pause])],
    a_paused_sandbox_can_be_destroyed [.needs(&[Pause])],
    another_handle_resumes [.needs(&[Pause])],
    it_may_be_done_again_and_again [.needs(&[Pause])],
    a_process_that_is_just_starting_a_child_is_paused_as_well [.needs(&[Pause]).reach(&[Shell])],
}

/// Longer than anything under way takes to arrive, on a busy machine as well.
const QUIET: Duration = Duration::from_secs(2);

async fn nothing_runs_meanwhile(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let mut stream = sandbox.start_guest(&["tick", "20"]).await?;
    ensure!(hears(&mut stream, SOON).await?, "it does not tick");
    sandbox.pause().await?;
    drain(&mut stream, QUIET).await?;
    ensure!(!hears(&mut stream, QUIET).await?, "it ticks while it is paused");
    sandbox.resume().await?;
    ensure!(hears(&mut stream, SOON).await?, "it does not tick after it was resumed");
    sandbox.kill(stream.pid).await
}

async fn processes_and_streams_go_on_afterwards(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo ready; cat").await?;
    read_until(&mut stream, "ready\n").await?;
    sandbox.put("file", "kept").await?;
    sandbox.pause().await?;
    sandbox.resume().await?;
    stream.input.write(Bytes::from_static(b"after\n")).await?;
    stream.input.close().await?;
    ensure_eq!(read_all(&mut stream).await?.stdout, b"after\n", "the open stream");
    ensure_eq!(sandbox.get("file").await?, b"kept", "a file");
    Ok(())
}

async fn calls_meanwhile_fail_within_seconds(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.pause().await?;
    let kinds = [ErrorKind::Conflict, ErrorKind::Unavailable];
    refused("exec", within_seconds("exec", sandbox.exec(ExecRequest::argv(["true"]))).await?, &kinds)?;
    refused("put", within_seconds("put", sandbox.put("file", "x")).await?, &kinds)?;
    refused("list", within_seconds("list", sandbox.processes()).await?, &kinds)?;
    sandbox.resume().await?;
    ensure_eq!(sandbox.text("echo here").await?, "here", "afterwards");
    Ok(())
}

async fn the_state_is_told_and_committed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.pause().await?;
    ensure_eq!(soon("status", sandbox.status()).await?.state, State::Paused, "told while it is paused");
    ensure_eq!(sandbox.journal().states().last(), Some(&State::Paused), "committed");
    sandbox.resume().await?;
    ensure_eq!(sandbox.status().await.state, State::Running, "told afterwards");
    ensure_eq!(sandbox.journal().states().last(), Some(&State::Running), "committed");
    Ok(())
}

async fn a_paused_sandbox_can_be_destroyed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.start_shell("sleep 1000").await?;
    sandbox.pause().await?;
    context.destroy(&sandbox).await
}

async fn another_handle_resumes(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.pause().await?;
    let other = context.subject().provider.attach(sandbox.attach_request()?).await?;
    ensure_eq!(other.status().await.state, State::Paused, "as another handle sees it");
    other.resume().await?;
    ensure_eq!(sandbox.text("echo here").await?, "here", "afterwards");
    Ok(())
}

async fn it_may_be_done_again_and_again(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for round in 0..10 {
        sandbox.pause().await?;
        sandbox.resume().await?;
        ensure_eq!(sandbox.text(&format!("echo {round}")).await?, round.to_string(), "a round");
    }
    Ok(())
}

async fn a_process_that_is_just_starting_a_child_is_paused_as_well(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    // A parent after vfork sleeps until its child has executed, whatever is sent to it.
    let starter = sandbox.start_shell("while :; do /bin/true; done").await?;
    for round in 0..15 {
        soon("pause", sandbox.pause()).await?.map_err(|error| Failure::from(error).during(format!("round {round}")))?;
        soon("resume", sandbox.resume()).await??;
    }
    sandbox.kill(starter.pid).await
}
