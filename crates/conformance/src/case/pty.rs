use bytes::Bytes;
use sandbar_core::{ErrorKind, ExecRequest, ExecStream, ExitStatus, Feature::Pty, PtySize};

use crate::{
    Context, Failure,
    Reach::{JobControl, Shell},
    Sandbox,
    failure::{ensure, ensure_eq, refused},
    stream::{read_all, read_until},
    suite::cases,
};

cases! { "pty";
    the_process_has_a_terminal [.needs(&[Pty]).reach(&[Shell])],
    both_streams_come_as_one [.needs(&[Pty]).reach(&[Shell])],
    the_size_is_the_one_asked_for [.needs(&[Pty]).reach(&[Shell])],
    a_resize_is_seen_and_signalled [.needs(&[Pty]).reach(&[Shell, JobControl])],
    what_is_typed_is_read_and_echoed [.needs(&[Pty]).reach(&[Shell])],
    control_c_interrupts [.needs(&[Pty]).reach(&[Shell])],
    closing_the_input_is_end_of_file [.needs(&[Pty]).reach(&[Shell])],
    it_is_the_controlling_terminal [.needs(&[Pty]).reach(&[Shell, JobControl])],
    signals_reach_the_foreground_group [.needs(&[Pty]).reach(&[Shell, JobControl])],
    the_exit_status_is_reported [.needs(&[Pty]).reach(&[Shell])],
    all_output_comes_before_the_end [.needs(&[Pty]).reach(&[Shell])],
    it_is_listed_as_a_terminal [.needs(&[Pty]).reach(&[Shell])],
    a_resize_without_a_terminal_is_refused,
    a_size_of_nothing_is_refused [.needs(&[Pty])],
}

const SIZE: PtySize = PtySize { rows: 24, columns: 80 };

async fn start(sandbox: &Sandbox, line: &str) -> Result<ExecStream, Failure> {
    Ok(sandbox.exec_stream(ExecRequest::shell(line).with_pty(SIZE)).await?)
}

async fn the_process_has_a_terminal(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = start(&sandbox, "for fd in 0 1 2; do test -t $fd && echo yes $fd; done").await?;
    let told = read_all(&mut stream).await?;
    ensure_eq!(String::from_utf8_lossy(&told.stdout), "yes 0\r\nyes 1\r\nyes 2\r\n", "terminals");
    Ok(())
}

async fn both_streams_come_as_one(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = start(&sandbox, "echo one; echo two >&2; echo three").await?;
    let told = read_all(&mut stream).await?;
    ensure_eq!(String::from_utf8_lossy(&told.stdout), "one\r\ntwo\r\nthree\r\n", "the terminal's output");
    ensure!(told.stderr.is_empty(), "a terminal has no stderr");
    Ok(())
}

async fn the_size_is_the_one_asked_for(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let request = ExecRequest::argv(["./guest", "size"]).with_pty(PtySize { rows: 33, columns: 121 });
    ensure_eq!(sandbox.exec(request).await?.stdout_text(), "33 121\r\n", "rows and columns");
    Ok(())
}

async fn a_resize_is_seen_and_signalled(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let mut stream = start(&sandbox, "trap './guest size' WINCH; echo waiting; while :; do sleep 0.1; done").await?;
    read_until(&mut stream, "waiting").await?;
    stream.input.resize(PtySize { rows: 50, columns: 132 }).await?;
    read_until(&mut stream, "50 132").await?;
    sandbox.kill(stream.pid).await
}

async fn what_is_typed_is_read_and_echoed(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = start(&sandbox, "read line; echo \"got <$line>\"").await?;
    stream.input.write(Bytes::from_static(b"some words\n")).await?;
    let told = read_all(&mut stream).await?;
    ensure_eq!(String::from_utf8_lossy(&told.stdout), "some words\r\ngot <some words>\r\n", "echo and answer");
    Ok(())
}

async fn control_c_interrupts(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = start(&sandbox, "echo waiting; exec sleep 1000").await?;
    read_until(&mut stream, "waiting").await?;
    stream.input.write(Bytes::from_static(b"\x03")).await?;
    ensure_eq!(read_all(&mut stream).await?.status, Some(ExitStatus::signaled(2)), "after Ctrl-C");
    Ok(())
}

async fn closing_the_input_is_end_of_file(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = start(&sandbox, "cat; echo over").await?;
    stream.input.write(Bytes::from_static(b"line\n")).await?;
    stream.input.close().await?;
    let told = read_all(&mut stream).await?;
    let text = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(text.ends_with("over\r\n"), "cat did not read end-of-file: {text:?}");
    Ok(())
}

async fn it_is_the_controlling_terminal(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = start(&sandbox, "echo told > /dev/tty").await?;
    ensure_eq!(String::from_utf8_lossy(&read_all(&mut stream).await?.stdout), "told\r\n", "/dev/tty");
    let without = sandbox.shell("echo told > /dev/tty").await?;
    ensure!(!without.status.success(), "a process without a terminal has a controlling one");
    Ok(())
}

async fn signals_reach_the_foreground_group(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    // With job control a child gets a group of its own, in the foreground of the session.
    let line = "set -m; sh -c 'trap \"echo child got it; exit 0\" USR1; echo waiting; while :; do sleep 0.1; done'; echo after";
    let mut stream = sandbox.exec_stream(ExecRequest::argv(["sh", "-c", &format!("trap : USR1; {line}")]).with_pty(SIZE)).await?;
    read_until(&mut stream, "waiting").await?;
    stream.input.signal(sandbar_core::Signal(10)).await?;
    read_until(&mut stream, "child got it").await?;
    let told = read_all(&mut stream).await?;
    ensure!(told.status.is_some(), "no end");
    Ok(())
}

async fn the_exit_status_is_reported(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    ensure_eq!(read_all(&mut start(&sandbox, "exit 9").await?).await?.status, Some(ExitStatus::exited(9)), "exit 9");
    ensure_eq!(read_all(&mut start(&sandbox, "kill -9 $$").await?).await?.status, Some(ExitStatus::signaled(9)), "kill -9");
    Ok(())
}

async fn all_output_comes_before_the_end(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for round in 0..10 {
        let mut stream = start(&sandbox, "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done").await?;
        let told = read_all(&mut stream).await?;
        let expected: String = (0..500).map(|index| format!("line {index}\r\n")).collect();
        ensure!(told.stdout == expected.as_bytes(), "round {round}: {} bytes of {}", told.stdout.len(), expected.len());
    }
    Ok(())
}

async fn it_is_listed_as_a_terminal(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let with = start(&sandbox, "sleep 1000").await?;
    let without = sandbox.start_shell("sleep 1000").await?;
    ensure!(sandbox.process(with.pid).await?.pty, "a terminal is not listed as one");
    ensure!(!sandbox.process(without.pid).await?.pty, "a pipe is listed as a terminal");
    sandbox.kill(with.pid).await?;
    sandbox.kill(without.pid).await
}

async fn a_resize_without_a_terminal_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.start_shell("sleep 1000").await?;
    refused("a resize", stream.input.resize(SIZE).await, &[ErrorKind::InvalidInput])?;
    sandbox.kill(stream.pid).await
}

async fn a_size_of_nothing_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let request = ExecRequest::shell("true").with_pty(PtySize { rows: 0, columns: 80 });
    refused("no rows", sandbox.exec(request).await, &[ErrorKind::InvalidInput])?;
    Ok(())
}
