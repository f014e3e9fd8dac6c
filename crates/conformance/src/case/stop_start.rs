use sandbar_core::{ErrorKind, ExecRequest, ExitStatus, Feature::StopStart, State};
use tokio::time::timeout;

use crate::{
    Context, Failure,
    Reach::{HostProcesses, Shell},
    failure::{ensure, ensure_eq, refused},
    host,
    sandbox::{SOON, soon, within_seconds},
    stream::{read_all, read_until},
    suite::cases,
};

cases! { "stop_start";
    the_writable_layer_is_kept [.needs(&[StopStart])],
    processes_end_with_a_stop [.needs(&[StopStart]).reach(&[Shell, HostProcesses])],
    processes_get_term_first [.needs(&[StopStart]).reach(&[Shell])],
    what_ignores_term_is_killed [.needs(&[StopStart]).reach(&[Shell])],
    processes_and_output_are_told_after_a_stop [.needs(&[StopStart])],
    a_stopped_one_uses_nothing [.needs(&[StopStart]).reach(&[HostProcesses])],
    calls_on_a_stopped_one_fail_within_seconds [.needs(&[StopStart])],
    the_state_is_told_and_committed [.needs(&[StopStart])],
    earlier_processes_are_not_started_again [.needs(&[StopStart])],
    an_open_stream_is_told [.needs(&[StopStart])],
    a_stopped_one_can_be_destroyed [.needs(&[StopStart])],
    another_handle_starts_it [.needs(&[StopStart])],
    it_may_be_done_again_and_again [.needs(&[StopStart])],
}

async fn the_writable_layer_is_kept(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.make_dir("folder", false, Some(0o711)).await?;
    sandbox.put("folder/file", "kept").await?;
    sandbox.symlink("file", "folder/link").await?;
    sandbox.stop().await?;
    sandbox.start().await?;
    ensure_eq!(sandbox.get("folder/link").await?, b"kept", "content");
    ensure_eq!(sandbox.stat("folder", true).await?.mode, 0o711, "a mode");
    ensure_eq!(sandbox.text("cat folder/file").await?, "kept", "inside");
    Ok(())
}

async fn processes_end_with_a_stop(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let marker = host::marker();
    let mut stream = sandbox.start_shell(&format!("(setsid sleep {marker} &); echo ready; sleep {marker}")).await?;
    read_until(&mut stream, "ready\n").await?;
    sandbox.stop().await?;
    ensure_eq!(host::processes_with(&marker), [0u32; 0], "processes that outlived the stop");
    Ok(())
}

async fn processes_get_term_first(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let line = "trap 'echo tidied > tidy; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let mut stream = sandbox.start_shell(line).await?;
    read_until(&mut stream, "ready\n").await?;
    sandbox.stop().await?;
    sandbox.start().await?;
    ensure_eq!(sandbox.get("tidy").await?, b"tidied\n", "what the handler wrote");
    Ok(())
}

async fn what_ignores_term_is_killed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("trap '' TERM; echo ready; while :; do sleep 0.05; done").await?;
    read_until(&mut stream, "ready\n").await?;
    timeout(SOON * context.subject().patience, sandbox.stop()).await.map_err(|_| Failure::new("the stop waits for ever"))??;
    let status = sandbox.process(stream.pid).await?.status;
    ensure_eq!(status, Some(ExitStatus::signaled(9)), "how it ended");
    Ok(())
}

async fn processes_and_output_are_told_after_a_stop(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut ended = sandbox.start_shell("echo ended; echo aside >&2; exit 5").await?;
    read_all(&mut ended).await?;
    let mut running = sandbox.start_shell("echo running; sleep 1000").await?;
    read_until(&mut running, "running\n").await?;
    sandbox.stop().await?;
    ensure_eq!(sandbox.process(ended.pid).await?.status, Some(ExitStatus::exited(5)), "the one that ended");
    let told = read_all(&mut sandbox.reattach(ended.pid, None).await?).await?;
    ensure_eq!((told.stdout.as_slice(), told.stderr.as_slice()), (&b"ended\n"[..], &b"aside\n"[..]), "its output");
    let told = read_all(&mut sandbox.reattach(running.pid, None).await?).await?;
    ensure_eq!((told.stdout.as_slice(), told.status), (&b"running\n"[..], Some(ExitStatus::signaled(15))), "the one that was ended");
    Ok(())
}

async fn a_stopped_one_uses_nothing(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let agent = sandbox.agent_pid()?;
    sandbox.stop().await?;
    ensure!(host::start_time(agent).is_none(), "the agent still runs");
    let held = sandbox.journal().held();
    let processes: Vec<_> = held.iter().filter(|resource| matches!(resource, sandbar_core::Resource::Process { .. })).collect();
    ensure!(processes.is_empty(), "the journal still holds {processes:?}");
    Ok(())
}

async fn calls_on_a_stopped_one_fail_within_seconds(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.stop().await?;
    let kinds = [ErrorKind::Conflict, ErrorKind::Unavailable];
    refused("exec", within_seconds("exec", sandbox.exec(ExecRequest::argv(["true"]))).await?, &kinds)?;
    refused("put", within_seconds("put", sandbox.put("file", "x")).await?, &kinds)?;
    refused("connect", within_seconds("connect", sandbox.connect_port(18280)).await?.map(drop), &kinds)?;
    Ok(())
}

async fn the_state_is_told_and_committed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.stop().await?;
    ensure_eq!(soon("status", sandbox.status()).await?.state, State::Stopped, "told while it is stopped");
    ensure_eq!(sandbox.journal().states().last(), Some(&State::Stopped), "committed");
    sandbox.start().await?;
    ensure_eq!(sandbox.status().await.state, State::Running, "told afterwards");
    ensure_eq!(sandbox.journal().states().last(), Some(&State::Running), "committed");
    Ok(())
}

async fn earlier_processes_are_not_started_again(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.start_shell("sleep 1000").await?;
    sandbox.stop().await?;
    sandbox.start().await?;
    let running: Vec<_> = sandbox.processes().await?.into_iter().filter(|process| process.status.is_none()).collect();
    ensure!(running.is_empty(), "these run: {running:?}");
    Ok(())
}

async fn an_open_stream_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo ready; sleep 1000").await?;
    read_until(&mut stream, "ready\n").await?;
    sandbox.stop().await?;
    match timeout(SOON, read_all(&mut stream)).await {
        Err(_) => Err(Failure::new("the stream hangs")),
        // Either the end was still told, or the connection's end was.
        Ok(Ok(told)) => {
            ensure_eq!(told.status, Some(ExitStatus::signaled(15)), "the end");
            Ok(())
        }
        Ok(Err(_)) => Ok(()),
    }
}

async fn a_stopped_one_can_be_destroyed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "x").await?;
    sandbox.stop().await?;
    context.destroy(&sandbox).await
}

async fn another_handle_starts_it(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "kept").await?;
    sandbox.stop().await?;
    let other = context.subject().provider.attach(sandbox.attach_request()?).await?;
    ensure_eq!(other.status().await.state, State::Stopped, "as another handle sees it");
    other.start().await?;
    // The first handle knows nothing of it: it is attached anew, as the runtime would.
    let third = context.subject().provider.attach(sandbox.attach_request()?).await?;
    ensure_eq!(third.exec(ExecRequest::argv(["cat", "file"])).await?.stdout_text(), "kept", "the layer");
    third.destroy().await?;
    sandbox.released();
    Context::nothing_is_left(&sandbox)
}

async fn it_may_be_done_again_and_again(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for round in 0..4 {
        sandbox.shell(&format!("echo {round} >> rounds")).await?;
        sandbox.stop().await?;
        sandbox.start().await?;
    }
    ensure_eq!(sandbox.get("rounds").await?, b"0\n1\n2\n3\n", "what each round wrote");
    Ok(())
}
