use sandbar_core::{ErrorKind, ExitStatus, Signal};

use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure_eq, refused},
    stream::{read_all, read_until},
    suite::cases,
};

cases! { "signal";
    a_signal_ends_the_process,
    a_signal_can_be_handled [.reach(&[Shell])],
    a_signal_through_the_stream_arrives [.reach(&[Shell])],
    a_signal_reaches_the_whole_group [.reach(&[Shell])],
    stop_and_continue_work [.reach(&[Shell])],
    a_process_that_exec_did_not_start_is_not_found,
    a_child_of_an_exec_is_not_found [.reach(&[Shell])],
    the_agent_itself_is_not_found,
    a_process_that_has_ended_is_a_conflict,
    a_number_that_is_no_signal_is_refused,
}

const WAIT: &str = "echo ready; while :; do sleep 0.05; done";

async fn a_signal_ends_the_process(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for signal in [Signal::TERM, Signal::KILL, Signal::INT, Signal::HUP] {
        // Some shells catch SIGINT while they start a child, so there is none.
        let mut stream = sandbox.start_shell("echo ready; exec sleep 1000").await?;
        read_until(&mut stream, "ready\n").await?;
        sandbox.signal(stream.pid, signal).await?;
        ensure_eq!(read_all(&mut stream).await?.status, Some(ExitStatus::signaled(signal.0)), "after {signal:?}");
    }
    Ok(())
}

async fn a_signal_can_be_handled(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell(&format!("trap 'echo caught; exit 3' USR1; {WAIT}")).await?;
    read_until(&mut stream, "ready\n").await?;
    sandbox.signal(stream.pid, Signal(10)).await?;
    let told = read_all(&mut stream).await?;
    ensure_eq!((told.stdout.as_slice(), told.status), (&b"caught\n"[..], Some(ExitStatus::exited(3))), "the handler");
    Ok(())
}

async fn a_signal_through_the_stream_arrives(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell(&format!("trap 'echo caught; exit 4' INT; {WAIT}")).await?;
    read_until(&mut stream, "ready\n").await?;
    stream.input.signal(Signal::INT).await?;
    ensure_eq!(read_all(&mut stream).await?.status, Some(ExitStatus::exited(4)), "the handler");
    Ok(())
}

async fn a_signal_reaches_the_whole_group(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("sleep 1000 & echo $! > child; echo ready; wait").await?;
    read_until(&mut stream, "ready\n").await?;
    sandbox.signal(stream.pid, Signal::TERM).await?;
    read_all(&mut stream).await?;
    sandbox.until("! kill -0 $(cat child) 2>/dev/null").await
}

async fn stop_and_continue_work(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    // A process without children: a shell that waits for its child to begin is not stopped before it has.
    let stream = sandbox.start_guest(&["tick", "20"]).await?;
    let pid = stream.pid;
    sandbox.signal(pid, Signal(19)).await?;
    sandbox.until(&format!("grep -q '^State:.T' /proc/{pid}/status")).await?;
    sandbox.signal(pid, Signal(18)).await?;
    sandbox.until(&format!("! grep -q '^State:.T' /proc/{pid}/status")).await?;
    sandbox.kill(pid).await
}

async fn a_process_that_exec_did_not_start_is_not_found(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for pid in [0, 999_999_999, u32::MAX] {
        refused(&format!("process {pid}"), sandbox.signal(pid, Signal::TERM).await, &[ErrorKind::NotFound])?;
    }
    Ok(())
}

async fn a_child_of_an_exec_is_not_found(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("sleep 1000 & echo child $!; echo ready; wait").await?;
    let text = read_until(&mut stream, "ready\n").await?;
    let child = text.split_whitespace().nth(1).and_then(|pid| pid.parse().ok());
    let child = child.ok_or_else(|| Failure::new(format!("no child in {text:?}")))?;
    refused("a grandchild", sandbox.signal(child, Signal::KILL).await, &[ErrorKind::NotFound])?;
    sandbox.kill(stream.pid).await
}

async fn the_agent_itself_is_not_found(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("process 1", sandbox.signal(1, Signal::KILL).await, &[ErrorKind::NotFound])?;
    sandbox.shell("true").await?;
    Ok(())
}

async fn a_process_that_has_ended_is_a_conflict(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("exit 0").await?;
    read_all(&mut stream).await?;
    refused("an ended process", sandbox.signal(stream.pid, Signal::TERM).await, &[ErrorKind::Conflict])?;
    Ok(())
}

async fn a_number_that_is_no_signal_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let stream = sandbox.start_shell("sleep 1000").await?;
    for number in [0, -1, 65] {
        refused(&format!("signal {number}"), sandbox.signal(stream.pid, Signal(number)).await, &[ErrorKind::InvalidInput])?;
    }
    sandbox.kill(stream.pid).await
}
