use bytes::Bytes;
use sandbar_core::{ErrorKind, ExecEvent, ExecRequest, ExitStatus};

use crate::{
    Context, Failure,
    Reach::Shell,
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    sandbox::noise,
    stream::{read_all, read_until},
    suite::cases,
};

cases! { "reattach";
    output_from_the_beginning_is_told_again,
    output_from_an_offset_is_told,
    output_goes_on_for_the_new_client,
    the_kept_output_and_status_of_an_ended_process_are_told,
    both_streams_are_kept_apart,
    lost_bytes_are_told [.reach(&[Shell]).heavy()],
    what_is_kept_is_the_newest_without_gaps [.reach(&[Shell])],
    two_clients_hear_the_same,
    input_works_from_the_new_client,
    a_process_that_exec_did_not_start_is_not_found,
    another_handle_attaches,
}

/// A process that has said `text` and whose client is gone.
async fn detached(sandbox: &Sandbox, text: &str) -> Result<u32, Failure> {
    let mut stream = sandbox.start_shell(&format!("printf '{text}'; sleep 1000")).await?;
    read_until(&mut stream, text).await?;
    Ok(stream.pid)
}

async fn output_from_the_beginning_is_told_again(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let pid = detached(&sandbox, "0123456789").await?;
    for from in [None, Some(0)] {
        let mut stream = sandbox.reattach(pid, from).await?;
        ensure_eq!(stream.pid, pid, "the process");
        ensure_eq!(read_until(&mut stream, "9").await?, "0123456789", "from {from:?}");
    }
    sandbox.kill(pid).await
}

async fn output_from_an_offset_is_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let pid = detached(&sandbox, "0123456789").await?;
    let mut stream = sandbox.reattach(pid, Some(4)).await?;
    let Some(ExecEvent::Output { offset, data, .. }) = stream.output.next().await? else {
        return Err(Failure::new("no output came first"));
    };
    ensure_eq!((offset, data), (4, Bytes::from_static(b"456789")), "from offset 4");
    sandbox.kill(pid).await
}

async fn output_goes_on_for_the_new_client(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo first; cat; exit 8").await?;
    read_until(&mut stream, "first\n").await?;
    let pid = stream.pid;
    let mut again = sandbox.reattach(pid, Some(6)).await?;
    stream.input.write(Bytes::from_static(b"second\n")).await?;
    stream.input.close().await?;
    drop(stream);
    let told = read_all(&mut again).await?;
    ensure_eq!((told.stdout.as_slice(), told.first), (&b"second\n"[..], Some(6)), "what came after");
    ensure_eq!(told.status, Some(ExitStatus::exited(8)), "the end");
    Ok(())
}

async fn the_kept_output_and_status_of_an_ended_process_are_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo kept; exit 13").await?;
    read_all(&mut stream).await?;
    let told = read_all(&mut sandbox.reattach(stream.pid, None).await?).await?;
    ensure_eq!((told.stdout.as_slice(), told.status), (&b"kept\n"[..], Some(ExitStatus::exited(13))), "afterwards");
    let rest = read_all(&mut sandbox.reattach(stream.pid, Some(5)).await?).await?;
    ensure_eq!((rest.stdout.as_slice(), rest.status), (&b""[..], Some(ExitStatus::exited(13))), "from the end");
    Ok(())
}

async fn both_streams_are_kept_apart(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("echo one; echo two >&2; echo three").await?;
    read_all(&mut stream).await?;
    let told = read_all(&mut sandbox.reattach(stream.pid, None).await?).await?;
    ensure_eq!((told.stdout.as_slice(), told.stderr.as_slice()), (&b"one\nthree\n"[..], &b"two\n"[..]), "kept output");
    Ok(())
}

async fn lost_bytes_are_told(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let total = 64 << 20;
    let stream = sandbox.start_shell(&format!("read go; head -c {total} /dev/zero")).await?;
    let (pid, mut input) = (stream.pid, stream.input);
    input.write(Bytes::from_static(b"go\n")).await?;
    drop((input, stream.output));
    let process = sandbox.ended(pid).await?;
    ensure_eq!(process.output_end, total, "bytes so far");
    ensure!(process.output_start > 0, "all of {total} bytes was kept without a client");
    let mut again = sandbox.reattach(pid, Some(0)).await?;
    let first = again.output.next().await?;
    ensure_eq!(first, Some(ExecEvent::Lost { bytes: process.output_start }), "the first event");
    let told = read_all(&mut again).await?;
    ensure_eq!((told.first, told.lost), (Some(process.output_start), 0), "what follows the loss");
    ensure_eq!(process.output_start + told.stdout.len() as u64, total, "lost and kept");
    Ok(())
}

async fn what_is_kept_is_the_newest_without_gaps(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let total = 20 << 20;
    let stream = sandbox.exec_stream(ExecRequest::argv(["./guest", "noise", &total.to_string(), "5"])).await?;
    let pid = stream.pid;
    drop(stream);
    sandbox.ended(pid).await?;
    let told = read_all(&mut sandbox.reattach(pid, None).await?).await?;
    let start = total - told.stdout.len();
    ensure!(told.stdout.len() >= 4096, "only {} bytes are kept", told.stdout.len());
    ensure_eq!(told.first, Some(start as u64), "the offset of the first kept byte");
    ensure!(told.stdout == noise(total, 5)[start..], "what is kept is not what was written last");
    Ok(())
}

async fn two_clients_hear_the_same(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut first = sandbox.start_shell("echo begun; cat").await?;
    read_until(&mut first, "begun\n").await?;
    let mut second = sandbox.reattach(first.pid, Some(6)).await?;
    ensure_eq!(sandbox.process(first.pid).await?.attached, 2, "clients");
    first.input.write(Bytes::from_static(b"to both\n")).await?;
    first.input.close().await?;
    let told = [read_all(&mut first).await?, read_all(&mut second).await?];
    for (index, told) in told.iter().enumerate() {
        ensure_eq!((told.stdout.as_slice(), told.status), (&b"to both\n"[..], Some(ExitStatus::exited(0))), "client {index}");
    }
    Ok(())
}

async fn input_works_from_the_new_client(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut first = sandbox.start_shell("echo begun; cat").await?;
    read_until(&mut first, "begun\n").await?;
    let pid = first.pid;
    drop(first);
    let mut second = sandbox.reattach(pid, Some(6)).await?;
    second.input.write(Bytes::from_static(b"typed later\n")).await?;
    second.input.close().await?;
    let told = read_all(&mut second).await?;
    ensure_eq!((told.stdout.as_slice(), told.status), (&b"typed later\n"[..], Some(ExitStatus::exited(0))), "the answer");
    Ok(())
}

async fn a_process_that_exec_did_not_start_is_not_found(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for pid in [0, 1, 999_999_999] {
        refused(&format!("process {pid}"), sandbox.reattach(pid, None).await, &[ErrorKind::NotFound])?;
    }
    Ok(())
}

async fn another_handle_attaches(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let pid = detached(&sandbox, "hello").await?;
    let other = context.subject().provider.attach(sandbox.attach_request()?).await?;
    let mut stream = other.reattach(pid, None).await?;
    read_until(&mut stream, "hello").await?;
    sandbox.kill(pid).await
}
