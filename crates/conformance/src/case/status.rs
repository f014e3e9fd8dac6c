use rustix::process::{Pid, Signal, kill_process};
use sandbar_core::{ErrorKind, ExecRequest, Feature::StopStart, State};
use tokio::time::timeout;

use crate::{
    Context, Failure,
    Reach::{Crash, HostProcesses, NoOrphans, Shell},
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    host,
    sandbox::{POLL, SOON, soon, within_seconds},
    stream::read_until,
    suite::cases,
};

cases! { "status";
    a_running_one_is_running,
    an_agent_that_was_killed_is_a_crash_with_a_reason [.reach(&[Crash])],
    calls_on_a_crashed_one_fail_within_seconds [.reach(&[Crash])],
    an_open_stream_of_a_crashed_one_is_told [.reach(&[Crash])],
    a_crashed_one_leaves_no_process [.reach(&[Shell, HostProcesses, Crash, NoOrphans])],
    a_crashed_one_starts_again_with_its_layer [.needs(&[StopStart]).reach(&[Crash])],
    a_crashed_one_can_be_destroyed [.reach(&[Crash])],
    a_second_handle_sees_the_crash [.reach(&[Crash])],
}

/// Ends the agent from outside, as the kernel's memory killer would.
async fn crash(context: &Context, sandbox: &Sandbox) -> Result<(), Failure> {
    if let Some(crash) = &context.subject().crash {
        ensure!(crash(sandbox.id()), "there is no agent to end");
        return Ok(());
    }
    let agent = sandbox.agent_pid()?;
    let pid = i32::try_from(agent).ok().and_then(Pid::from_raw).ok_or_else(|| Failure::new("no process id"))?;
    kill_process(pid, Signal::KILL).map_err(std::io::Error::from)?;
    let gone = async {
        while host::start_time(agent).is_some() {
            tokio::time::sleep(POLL).await;
        }
    };
    timeout(SOON, gone).await.map_err(|_| Failure::new("the agent survives KILL"))
}

async fn a_running_one_is_running(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let status = soon("status", sandbox.status()).await?;
    ensure_eq!((status.state, status.reason), (State::Running, None), "the status");
    ensure_eq!(sandbox.journal().states().last(), Some(&State::Running), "what was committed");
    Ok(())
}

async fn an_agent_that_was_killed_is_a_crash_with_a_reason(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    crash(context, &sandbox).await?;
    let status = soon("status", sandbox.status()).await?;
    ensure_eq!(status.state, State::Crashed, "the state");
    ensure!(status.reason.as_deref().is_some_and(|reason| !reason.is_empty()), "no reason is told");
    Ok(())
}

async fn calls_on_a_crashed_one_fail_within_seconds(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    crash(context, &sandbox).await?;
    let gone = [ErrorKind::Unavailable];
    refused("exec", within_seconds("exec", sandbox.exec(ExecRequest::argv(["true"]))).await?, &gone)?;
    refused("list", within_seconds("list", sandbox.processes()).await?, &gone)?;
    refused("put", within_seconds("put", sandbox.put("file", "x")).await?, &gone)?;
    refused("get", within_seconds("get", sandbox.get("file")).await?, &gone)?;
    refused("connect", within_seconds("connect", sandbox.connect_port(18480)).await?.map(drop), &gone)?;
    Ok(())
}

async fn an_open_stream_of_a_crashed_one_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo ready; sleep 1000").await?;
    read_until(&mut stream, "ready\n").await?;
    crash(context, &sandbox).await?;
    let error = loop {
        match timeout(SOON, stream.output.next()).await.map_err(|_| Failure::new("an open stream hangs"))? {
            Ok(Some(sandbar_core::ExecEvent::Output { .. })) => {}
            Ok(other) => return Err(Failure::new(format!("the stream says {other:?}"))),
            Err(error) => break error,
        }
    };
    refused("the stream", Err::<(), _>(error), &[ErrorKind::Unavailable])?;
    Ok(())
}

async fn a_crashed_one_leaves_no_process(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let marker = host::marker();
    let mut stream = sandbox.start_shell(&format!("(setsid sleep {marker} &); echo ready; sleep {marker}")).await?;
    read_until(&mut stream, "ready\n").await?;
    crash(context, &sandbox).await?;
    context.destroy(&sandbox).await?;
    ensure_eq!(host::processes_with(&marker), [0u32; 0], "processes that outlived the crash and the destroy");
    Ok(())
}

async fn a_crashed_one_starts_again_with_its_layer(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "kept").await?;
    if context.subject().reach.contains(&Shell) {
        // Where a kernel of its own goes down with it, what that had not written yet is lost, as with a machine's power.
        sandbox.text("sync").await?;
    }
    crash(context, &sandbox).await?;
    sandbox.start().await?;
    ensure_eq!(sandbox.text("cat file").await?, "kept", "the layer");
    ensure_eq!(sandbox.status().await.state, State::Running, "the state");
    Ok(())
}

async fn a_crashed_one_can_be_destroyed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put("file", "x").await?;
    crash(context, &sandbox).await?;
    context.destroy(&sandbox).await
}

async fn a_second_handle_sees_the_crash(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    crash(context, &sandbox).await?;
    let other = context.subject().provider.attach(sandbox.attach_request()?).await?;
    let status = soon("status", other.status()).await?;
    ensure_eq!(status.state, State::Crashed, "the state");
    Ok(())
}
