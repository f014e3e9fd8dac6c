use sandbar_core::{ExecEvent, ExecRequest, ExitStatus, OutputKind};
use tokio::time::{sleep, timeout};

use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure, ensure_eq},
    sandbox::{POLL, SOON, noise},
    stream::{read_all, read_until},
    suite::cases,
};

cases! { "stream";
    stdout_and_stderr_are_apart,
    order_within_each_stream_is_kept [.reach(&[Shell])],
    output_is_binary_safe,
    output_is_told_while_the_process_runs,
    output_without_a_line_end_is_told_at_once,
    offsets_count_both_streams,
    the_end_is_told_last_and_once,
    a_great_deal_of_output_is_complete [.reach(&[Shell]).heavy()],
    a_reader_that_stops_holds_the_process_back_and_loses_nothing [.reach(&[Shell])],
    a_reader_that_stops_does_not_hold_others_back [.reach(&[Shell])],
    a_closed_stdout_is_no_end [.reach(&[Shell])],
}

async fn stdout_and_stderr_are_apart(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo one; echo two >&2; echo three; echo four >&2").await?;
    let told = read_all(&mut stream).await?;
    ensure_eq!((told.stdout.as_slice(), told.stderr.as_slice()), (&b"one\nthree\n"[..], &b"two\nfour\n"[..]), "both streams");
    Ok(())
}

async fn order_within_each_stream_is_kept(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("i=0; while [ $i -lt 3000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done").await?;
    let told = read_all(&mut stream).await?;
    for (name, found) in [("out", &told.stdout), ("err", &told.stderr)] {
        let expected: String = (0..3000).map(|index| format!("{name} {index}\n")).collect();
        ensure!(*found == expected.as_bytes(), "lines of {name} are missing or out of order");
    }
    Ok(())
}

async fn output_is_binary_safe(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let bytes: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    sandbox.put("bytes", &bytes).await?;
    let result = sandbox.shell("cat bytes; cat bytes >&2").await?;
    ensure_eq!(result.stdout, bytes, "stdout");
    ensure_eq!(result.stderr, bytes, "stderr");
    Ok(())
}

async fn output_is_told_while_the_process_runs(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo first; sleep 1000").await?;
    read_until(&mut stream, "first\n").await?;
    sandbox.kill(stream.pid).await
}

async fn output_without_a_line_end_is_told_at_once(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("printf 'name? '; sleep 1000").await?;
    read_until(&mut stream, "name? ").await?;
    sandbox.kill(stream.pid).await
}

async fn offsets_count_both_streams(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo one; echo three >&2; echo five").await?;
    let mut seen = 0;
    while let Some(event) = stream.output.next().await? {
        if let ExecEvent::Output { offset, data, .. } = event {
            ensure_eq!(offset, seen, "an offset");
            seen += data.len() as u64;
        }
    }
    ensure_eq!(seen, 15, "bytes of both streams");
    ensure_eq!(sandbox.process(stream.pid).await?.output_end, 15, "the end as it is listed");
    Ok(())
}

async fn the_end_is_told_last_and_once(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo a; echo b >&2; exit 4").await?;
    let mut events = Vec::new();
    while let Some(event) = stream.output.next().await? {
        events.push(event);
    }
    let ends = events.iter().filter(|event| matches!(event, ExecEvent::Exited(_))).count();
    ensure_eq!((ends, events.last()), (1, Some(&ExecEvent::Exited(ExitStatus::exited(4)))), "the end");
    ensure!(stream.output.next().await?.is_none(), "the stream is not over after its end");
    Ok(())
}

async fn a_great_deal_of_output_is_complete(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let length = 48 << 20;
    let mut stream = sandbox.exec_stream(ExecRequest::argv(["./guest", "noise", &length.to_string(), "7"])).await?;
    let told = read_all(&mut stream).await?;
    ensure_eq!((told.stdout.len(), told.lost), (length, 0), "read and lost");
    ensure!(told.stdout == noise(length, 7), "the bytes are not those that were written");
    Ok(())
}

async fn a_reader_that_stops_holds_the_process_back_and_loses_nothing(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let line = "i=0; while [ $i -lt 400 ]; do head -c 262144 /dev/zero; i=$((i+1)); echo $i > progress; done";
    let mut stream = sandbox.start_shell(line).await?;
    let Some(ExecEvent::Output { kind: OutputKind::Stdout, data, .. }) = stream.output.next().await? else {
        return Err(Failure::new("the first event is no output"));
    };
    // Wait until it makes no progress any more.
    let held_at = timeout(SOON * 2, async {
        let mut before = String::new();
        loop {
            let now = sandbox.text("cat progress 2>/dev/null || true").await?;
            if !now.is_empty() && now == before {
                return Ok::<_, Failure>(now);
            }
            before = now;
            sleep(POLL * 20).await;
        }
    })
    .await??;
    ensure!(held_at.parse().is_ok_and(|count: u32| count < 400), "nothing held the process back: it wrote {held_at} blocks");
    ensure!(sandbox.process(stream.pid).await?.status.is_none(), "the process ended");
    let told = read_all(&mut stream).await?;
    ensure_eq!((told.lost, data.len() + told.stdout.len()), (0, 400 * 262_144), "lost and read");
    Ok(())
}

async fn a_reader_that_stops_does_not_hold_others_back(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let stopped = sandbox.start_shell("while :; do head -c 65536 /dev/zero; done").await?;
    for _ in 0..20 {
        let result = timeout(SOON * context.subject().patience, sandbox.shell("echo here")).await??;
        ensure_eq!(result.stdout_text(), "here\n", "another command");
    }
    sandbox.put("file", noise(1 << 20, 3)).await?;
    ensure!(sandbox.get("file").await? == noise(1 << 20, 3), "a file came back changed");
    drop(stopped.output);
    sandbox.kill(stopped.pid).await
}

async fn a_closed_stdout_is_no_end(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("exec >&-; sleep 0.3; echo late >&2; exit 5").await?;
    let told = read_all(&mut stream).await?;
    ensure_eq!((told.stderr.as_slice(), told.status), (&b"late\n"[..], Some(ExitStatus::exited(5))), "after stdout was closed");
    Ok(())
}
