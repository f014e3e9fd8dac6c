use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sandbar_core::{ExecRequest, ExitStatus};

use crate::{
    Context, Failure,
    Reach::{HostProcesses, Shell},
    failure::{ensure, ensure_eq},
    host,
    sandbox::{POLL, SOON},
    stream::{read_all, read_until},
    suite::cases,
};

cases! { "process";
    running_ones_are_listed,
    ended_ones_are_listed_with_their_status,
    it_outlives_its_client,
    it_ends_with_its_client_when_asked,
    a_child_of_the_shell_is_not_listed [.reach(&[Shell])],
    the_listing_is_bounded [.reach(&[Shell]).heavy()],
    every_descendant_dies_with_the_sandbox [.reach(&[Shell, HostProcesses])],
    orphans_are_reaped [.reach(&[Shell])],
    a_daemon_that_left_its_session_dies_with_the_sandbox [.reach(&[Shell, HostProcesses])],
}

async fn running_ones_are_listed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut stream = sandbox.start_shell("echo 12345; sleep 1000").await?;
    read_until(&mut stream, "12345\n").await?;
    let process = sandbox.process(stream.pid).await?;
    ensure!(process.command.contains("sleep 1000"), "the command reads {:?}", process.command);
    ensure_eq!((process.status, process.ended_ms, process.pty), (None, None, false), "a running process");
    ensure_eq!((process.output_start, process.output_end), (0, 6), "its output");
    ensure_eq!(process.attached, 1, "its clients");
    let distance = before.abs_diff(Duration::from_millis(process.started_ms));
    ensure!(distance < Duration::from_secs(60), "it was started {distance:?} from now");
    sandbox.kill(stream.pid).await
}

async fn ended_ones_are_listed_with_their_status(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo x; exit 21").await?;
    read_all(&mut stream).await?;
    let process = sandbox.ended(stream.pid).await?;
    ensure_eq!(process.status, Some(ExitStatus::exited(21)), "its status");
    ensure!(process.ended_ms.is_some_and(|ended| ended >= process.started_ms), "it ended at {:?}", process.ended_ms);
    Ok(())
}

async fn it_outlives_its_client(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo ready; sleep 1000").await?;
    read_until(&mut stream, "ready\n").await?;
    let pid = stream.pid;
    drop(stream);
    let detached = async {
        while sandbox.process(pid).await?.attached > 0 {
            tokio::time::sleep(POLL).await;
        }
        Ok::<_, Failure>(())
    };
    tokio::time::timeout(SOON, detached).await??;
    ensure_eq!(sandbox.process(pid).await?.status, None, "its status without a client");
    sandbox.kill(pid).await
}

async fn it_ends_with_its_client_when_asked(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let request = ExecRequest { kill_on_disconnect: true, ..ExecRequest::shell("echo ready; sleep 1000") };
    let mut stream = sandbox.exec_stream(request).await?;
    read_until(&mut stream, "ready\n").await?;
    let pid = stream.pid;
    drop(stream);
    ensure_eq!(sandbox.ended(pid).await?.status, Some(ExitStatus::signaled(9)), "its end");
    Ok(())
}

async fn a_child_of_the_shell_is_not_listed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("sleep 1000 & sleep 1000 & echo ready; wait").await?;
    read_until(&mut stream, "ready\n").await?;
    let running = sandbox.processes().await?.into_iter().filter(|process| process.status.is_none()).count();
    ensure_eq!(running, 1, "processes that exec started");
    sandbox.kill(stream.pid).await
}

async fn the_listing_is_bounded(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let long = sandbox.start_shell("sleep 1000").await?;
    for _ in 0..30 {
        let rounds = (0..20).map(|_| sandbox.exec(ExecRequest::argv(["true"])));
        for round in rounds {
            round.await?;
        }
    }
    let all = sandbox.processes().await?;
    ensure!(all.len() < 600, "all {} processes that ever were are still remembered", all.len());
    ensure!(all.iter().any(|process| process.pid == long.pid), "a running process was forgotten");
    ensure!(all.iter().filter(|process| process.status.is_some()).count() >= 10, "the last that ended are not remembered");
    sandbox.kill(long.pid).await
}

async fn every_descendant_dies_with_the_sandbox(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let marker = host::marker();
    let mut stream = sandbox.start_shell(&format!("sleep {marker} & (sleep {marker} &) ; echo ready; sleep {marker}")).await?;
    read_until(&mut stream, "ready\n").await?;
    ensure!(host::appear(&marker, 2).await, "this test cannot see the processes of the sandbox");
    context.destroy(&sandbox).await?;
    ensure_eq!(host::processes_with(&marker), [0u32; 0], "processes that outlived their sandbox");
    Ok(())
}

async fn a_daemon_that_left_its_session_dies_with_the_sandbox(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let marker = host::marker();
    sandbox
        .text(&format!("(setsid sh -c 'trap \"\" TERM HUP INT; (sleep {marker} &) ; sleep {marker}' </dev/null >/dev/null 2>&1 &)"))
        .await?;
    ensure!(host::appear(&marker, 2).await, "this test cannot see the processes of the sandbox");
    context.destroy(&sandbox).await?;
    ensure_eq!(host::processes_with(&marker), [0u32; 0], "processes that outlived their sandbox");
    Ok(())
}

async fn orphans_are_reaped(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.text("i=0; while [ $i -lt 30 ]; do (sh -c 'sleep 0.2 & echo $!' >> orphans); i=$((i+1)); done").await?;
    // Of an orphan that was not reaped a zombie is left in /proc.
    sandbox.until("for pid in $(cat orphans); do test ! -e /proc/$pid || exit 1; done").await
}
