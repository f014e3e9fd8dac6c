use std::time::{Duration, Instant};

use sandbar_core::{ErrorKind, ExecRequest};
use tokio::time::timeout;

use crate::{
    Context, Failure,
    Reach::Shell,
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    sandbox::{SOON, within_seconds},
    stream::{read_all, read_until},
    suite::cases,
};

cases! { "destroy";
    every_resource_is_released,
    doing_it_again_is_no_error,
    doing_it_twice_at_once_is_no_error,
    another_handle_may_do_it,
    calls_afterwards_fail_within_seconds,
    an_open_stream_is_told,
    it_does_not_wait_for_what_ignores_term [.reach(&[Shell])],
    a_full_and_busy_one_is_destroyed [.reach(&[Shell])],
    others_are_not_touched,
}

async fn every_resource_is_released(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    ensure!(!sandbox.journal().ever().is_empty(), "the journal was told nothing");
    context.destroy(&sandbox).await
}

async fn doing_it_again_is_no_error(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    context.destroy(&sandbox).await?;
    sandbox.destroy().await?;
    Ok(sandbox.destroy().await?)
}

async fn doing_it_twice_at_once_is_no_error(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let other = context.subject().provider.attach(sandbox.attach_request()?).await?;
    let (one, two, three) = tokio::join!(sandbox.destroy(), sandbox.destroy(), other.destroy());
    sandbox.released();
    one.and(two).and(three)?;
    Context::nothing_is_left(&sandbox)
}

async fn another_handle_may_do_it(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let other = context.subject().provider.attach(sandbox.attach_request()?).await?;
    other.destroy().await?;
    sandbox.released();
    Context::nothing_is_left(&sandbox)
}

async fn calls_afterwards_fail_within_seconds(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    context.destroy(&sandbox).await?;
    let kinds = [ErrorKind::Unavailable, ErrorKind::NotFound, ErrorKind::Conflict];
    refused("exec", within_seconds("exec", sandbox.exec(ExecRequest::argv(["true"]))).await?, &kinds)?;
    refused("put", within_seconds("put", sandbox.put("file", "x")).await?, &kinds)?;
    Ok(())
}

async fn an_open_stream_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo ready; sleep 1000").await?;
    read_until(&mut stream, "ready\n").await?;
    context.destroy(&sandbox).await?;
    let told = timeout(SOON, read_all(&mut stream)).await.map_err(|_| Failure::new("an open stream hangs"))?;
    ensure!(
        told.is_err() || told.is_ok_and(|told| told.status.is_some_and(|status| !status.success())),
        "the stream says that all was well"
    );
    Ok(())
}

async fn it_does_not_wait_for_what_ignores_term(context: &Context) -> Result<(), Failure> {
    let busy = async |line: &str| {
        let sandbox = context.sandbox().await?;
        let mut stream = sandbox.start_shell(line).await?;
        read_until(&mut stream, "ready\n").await?;
        Ok::<_, Failure>(sandbox)
    };
    // Both at once, for a busy machine takes its time for either.
    let took = async |sandbox: &Sandbox| {
        let begin = Instant::now();
        context.destroy(sandbox).await?;
        Ok::<_, Failure>(begin.elapsed())
    };
    let mut all = Vec::new();
    for _ in 0..3 {
        let stubborn = busy("trap '' TERM HUP INT; echo ready; while :; do sleep 0.05; done").await?;
        let polite = busy("echo ready; while :; do sleep 0.05; done").await?;
        let (stubborn, polite) = tokio::join!(took(&stubborn), took(&polite));
        let (stubborn, polite) = (stubborn?, polite?);
        // What a stop gives them to end is 5 seconds; an engine's is 10. Whoever waits for that does so each time, and a machine that is in the way of one of the
        // two does not.
        if stubborn < polite + Duration::from_secs(4) {
            return Ok(());
        }
        all.push((stubborn, polite));
    }
    Err(Failure::new(format!("it took so long, and so long where nothing ignored a signal: {all:?}")))
}

async fn a_full_and_busy_one_is_destroyed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    sandbox.guest(&["inodes", "many", "3000"]).await?;
    sandbox.guest(&["deep", "300"]).await?;
    let mut stream = sandbox.start_shell("echo ready; while :; do echo x >> log; mkdir d; rmdir d; done").await?;
    read_until(&mut stream, "ready\n").await?;
    sandbox.text("mkdir locked; echo x > locked/file; chmod 000 locked").await?;
    context.destroy(&sandbox).await
}

async fn others_are_not_touched(context: &Context) -> Result<(), Failure> {
    let kept = context.sandbox().await?;
    kept.put("file", "kept").await?;
    let running = kept.start_shell("sleep 1000").await?;
    let gone = context.sandbox().await?;
    context.destroy(&gone).await?;
    ensure_eq!(kept.process(running.pid).await?.status, None, "a process of another sandbox");
    ensure_eq!(kept.get("file").await?, b"kept", "a file of another sandbox");
    kept.kill(running.pid).await
}
