use std::time::{Duration, Instant};

use sandbar_core::{ExecRequest, ExitStatus};

use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure, ensure_eq},
    sandbox::SOON,
    suite::cases,
};

cases! { "timeout";
    it_ends_in_term,
    what_ignores_term_is_killed_after_the_grace [.reach(&[Shell]).waits()],
    a_handler_may_end_within_the_grace [.reach(&[Shell]).waits()],
    the_whole_group_is_ended [.reach(&[Shell]).waits()],
    a_command_within_it_is_not_touched,
    it_holds_without_its_client,
    output_before_it_is_told [.waits()],
}

/// The command must have begun by then, and its shell have set its traps, wherever it runs and however busy the machine is.
const LIMIT: Duration = Duration::from_secs(10);
/// For a command that need not have done anything by then.
const AT_ONCE: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_millis(400);
/// What a clock inside may be ahead of the one here.
const SLACK: Duration = Duration::from_millis(100);

fn limited(context: &Context, line: &str) -> ExecRequest {
    let pace = context.subject().patience;
    // What is slow is the wall, and not the machine as well.
    let limit = LIMIT + Duration::from_secs(1) * (pace - 1);
    ExecRequest { grace: GRACE * pace, ..ExecRequest::shell(line).with_timeout(limit) }
}

async fn it_ends_in_term(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let begin = Instant::now();
    let status = sandbox.exec(limited(context, "sleep 1000").with_timeout(AT_ONCE)).await?.status;
    ensure_eq!(status, ExitStatus { timed_out: true, ..ExitStatus::signaled(15) }, "the status");
    ensure_eq!(status.shell_code(), 124, "as a shell would say");
    ensure!(begin.elapsed() >= AT_ONCE - SLACK, "it ended early, after {:?}", begin.elapsed());
    ensure!(begin.elapsed() < SOON * context.subject().patience, "it ended late, after {:?}", begin.elapsed());
    Ok(())
}

async fn what_ignores_term_is_killed_after_the_grace(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let begin = Instant::now();
    let status = sandbox.exec(limited(context, "trap '' TERM; while :; do sleep 0.05; done")).await?.status;
    ensure_eq!(status, ExitStatus { timed_out: true, ..ExitStatus::signaled(9) }, "the status");
    ensure!(begin.elapsed() >= LIMIT + GRACE - SLACK, "the grace was cut, after {:?}", begin.elapsed());
    Ok(())
}

async fn a_handler_may_end_within_the_grace(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let line = "trap 'echo tidied; exit 0' TERM; while :; do sleep 0.05; done";
    let result = sandbox.exec(ExecRequest { grace: SOON, ..limited(context, line) }).await?;
    ensure_eq!(result.stdout_text(), "tidied\n", "the handler's output");
    ensure_eq!(result.status, ExitStatus { timed_out: true, ..ExitStatus::exited(0) }, "the status");
    ensure!(!result.status.success(), "a timeout counts as a success");
    Ok(())
}

async fn the_whole_group_is_ended(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let line = "trap '' TERM; sh -c \"trap '' TERM; while :; do sleep 0.05; done\" & echo $! > child; wait; wait";
    ensure!(sandbox.exec(limited(context, line)).await?.status.timed_out, "no timeout was told");
    sandbox.until("! kill -0 $(cat child) 2>/dev/null").await
}

async fn a_command_within_it_is_not_touched(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let status = sandbox.exec(ExecRequest::shell("sleep 0.1; exit 3").with_timeout(SOON * context.subject().patience)).await?.status;
    ensure_eq!(status, ExitStatus::exited(3), "the status");
    Ok(())
}

async fn it_holds_without_its_client(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let stream = sandbox.exec_stream(limited(context, "sleep 1000").with_timeout(AT_ONCE)).await?;
    let pid = stream.pid;
    drop(stream);
    let status = sandbox.ended(pid).await?.status;
    ensure!(status.is_some_and(|status| status.timed_out), "ended with {status:?}");
    Ok(())
}

async fn output_before_it_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let result = sandbox.exec(limited(context, "echo before; sleep 1000")).await?;
    ensure_eq!((result.stdout_text(), result.status.timed_out), ("before\n".to_owned(), true), "output and status");
    Ok(())
}
