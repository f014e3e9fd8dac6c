use std::time::Duration;

use bytes::Bytes;
use sandbar_core::{ErrorKind, ExecRequest, ExitStatus};
use tokio::time::timeout;

use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure, ensure_eq, refused},
    sandbox::{SOON, noise},
    stream::{read_all, read_until},
    suite::cases,
};

cases! { "stdin";
    what_is_written_is_read,
    it_is_binary_safe_and_complete [.reach(&[Shell])],
    closing_it_is_end_of_file,
    without_it_the_process_reads_end_of_file_at_once,
    it_is_answered_while_it_is_open [.reach(&[Shell])],
    a_process_that_does_not_read_holds_the_writer_back [.reach(&[Shell])],
    a_process_that_closed_it_is_told [.reach(&[Shell])],
    a_process_that_ended_is_told,
}

async fn what_is_written_is_read(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("cat").await?;
    stream.input.write(Bytes::from_static(b"one\n")).await?;
    read_until(&mut stream, "one\n").await?;
    stream.input.write(Bytes::from_static(b"two\n")).await?;
    stream.input.close().await?;
    ensure_eq!(read_all(&mut stream).await?.stdout, b"two\n", "the rest");
    Ok(())
}

async fn it_is_binary_safe_and_complete(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let bytes = noise(5 << 20, 11);
    let mut stream = sandbox.start_shell("cat").await?;
    let (mut input, mut output) = (stream.input, Vec::new());
    let sent = bytes.clone();
    let writer = tokio::spawn(async move {
        for start in (0..sent.len()).step_by(100_000) {
            input.write(sent.slice(start..sent.len().min(start + 100_000))).await?;
        }
        input.close().await
    });
    while let Some(event) = stream.output.next().await? {
        if let sandbar_core::ExecEvent::Output { data, .. } = event {
            output.extend_from_slice(&data);
        }
    }
    writer.await??;
    ensure!(output == bytes, "{} bytes went in, {} others came out", bytes.len(), output.len());
    Ok(())
}

async fn closing_it_is_end_of_file(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("cat; exit 6").await?;
    stream.input.close().await?;
    ensure_eq!(read_all(&mut stream).await?.status, Some(ExitStatus::exited(6)), "the status");
    Ok(())
}

async fn without_it_the_process_reads_end_of_file_at_once(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let result = timeout(SOON, sandbox.exec(ExecRequest::shell("cat; echo over"))).await??;
    ensure_eq!(result.stdout_text(), "over\n", "output");
    Ok(())
}

async fn it_is_answered_while_it_is_open(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("while read line; do echo \"answer to $line\"; done; echo over").await?;
    for round in 0..50 {
        stream.input.write(Bytes::from(format!("question {round}\n"))).await?;
        read_until(&mut stream, &format!("answer to question {round}\n")).await?;
    }
    stream.input.close().await?;
    ensure_eq!(read_all(&mut stream).await?.stdout, b"over\n", "the rest");
    Ok(())
}

async fn a_process_that_does_not_read_holds_the_writer_back(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo ready; sleep 1000").await?;
    read_until(&mut stream, "ready\n").await?;
    let block = noise(1 << 20, 5);
    let writing = async {
        for _ in 0..256 {
            stream.input.write(block.clone()).await?;
        }
        Ok::<_, Failure>(())
    };
    let outcome = timeout(Duration::from_secs(3), writing).await;
    ensure!(outcome.is_err(), "256 MiB went into a process that reads nothing: {outcome:?}");
    ensure_eq!(sandbox.text("echo others go on").await?, "others go on", "another command");
    sandbox.kill(stream.pid).await
}

async fn a_process_that_closed_it_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("exec <&-; echo ready; exec sleep 1000").await?;
    read_until(&mut stream, "ready\n").await?;
    // As every client does: it listens while it writes.
    let (pid, mut input, mut output) = (stream.pid, stream.input, stream.output);
    let listening = tokio::spawn(async move { while let Ok(Some(_)) = output.next().await {} });
    let error = write_until_refused(&mut *input).await?;
    refused("a write", Err::<(), _>(error), &[ErrorKind::Unavailable])?;
    ensure_eq!(sandbox.process(pid).await?.status, None, "the process itself");
    sandbox.kill(pid).await?;
    Ok(listening.await?)
}

async fn a_process_that_ended_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("exit 0").await?;
    read_all(&mut stream).await?;
    let error = write_until_refused(&mut *stream.input).await?;
    refused("a write", Err::<(), _>(error), &[ErrorKind::Unavailable])?;
    Ok(())
}

/// The first writes may still go into buffers on the way.
async fn write_until_refused(input: &mut dyn sandbar_core::ExecInput) -> Result<sandbar_core::Error, Failure> {
    let writing = async {
        loop {
            if let Err(error) = input.write(noise(65536, 1)).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, writing).await.map_err(|_| Failure::new("writes to nobody are never refused"))
}
