use std::{
    pin::Pin,
    task::{Context as Poller, Poll},
    time::Duration,
};

use sandbar_core::{ExecEvent, ExecRequest, PutOptions};
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    Context, Failure,
    Reach::{HostProcesses, LargeFiles, Shell},
    Sandbox,
    failure::{ensure, ensure_eq},
    host,
    sandbox::SOON,
    stream::read_all,
    suite::cases,
};

cases! { "load";
    millions_of_lines_come_complete [.reach(&[Shell]).seconds(180)],
    two_hundred_commands_at_once [.reach(&[Shell]).seconds(240)],
    two_hundred_commands_that_stay [.reach(&[Shell]).seconds(240)],
    a_gibibyte_goes_in_and_out [.reach(&[Shell, LargeFiles]).seconds(300)],
    sixteen_mebibytes_go_in_and_out [.reach(&[Shell])],
    a_reader_that_stops_costs_the_agent_no_memory [.reach(&[Shell, HostProcesses]).seconds(180)],
    detached_output_costs_the_agent_no_memory [.reach(&[Shell, HostProcesses]).seconds(240)],
}

const LINES: u64 = 3_000_000;
/// What the agent may grow by while it holds output or files: rings and buffers, not the content.
const GROWTH_KIB: u64 = 24 << 10;

async fn millions_of_lines_come_complete(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut stream = sandbox.exec_stream(ExecRequest::argv(["seq", "1", &LINES.to_string()])).await?;
    let (mut expected, mut line) = (1u64, 0u64);
    while let Some(event) = stream.output.next().await? {
        match event {
            ExecEvent::Output { data, .. } => {
                for byte in data {
                    if byte == b'\n' {
                        ensure_eq!(line, expected, "a line");
                        (expected, line) = (expected + 1, 0);
                    } else {
                        line = line * 10 + u64::from(byte - b'0');
                    }
                }
            }
            ExecEvent::Lost { bytes } => return Err(Failure::new(format!("{bytes} bytes were lost"))),
            ExecEvent::Exited(status) => ensure!(status.success(), "seq ended with {status}"),
        }
    }
    ensure_eq!(expected, LINES + 1, "lines");
    Ok(())
}

async fn at_once(sandbox: &Sandbox, line: fn(u32) -> String) -> Result<(), Failure> {
    let mut tasks = JoinSet::new();
    for index in 0..200 {
        let sandbox = sandbox.clone();
        tasks.spawn(async move {
            let result = sandbox.shell(&line(index)).await?;
            ensure_eq!(result.stdout_text(), format!("{index}\n"), "command {index} ({})", result.stderr_text());
            Ok::<_, Failure>(())
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome??;
    }
    Ok(())
}

async fn two_hundred_commands_at_once(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    for _ in 0..3 {
        at_once(&sandbox, |index| format!("echo {index}")).await?;
    }
    Ok(())
}

async fn two_hundred_commands_that_stay(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let mut starting = JoinSet::new();
    for index in 0..200 {
        let sandbox = sandbox.clone();
        starting.spawn(async move { (index, sandbox.start_shell(&format!("read -r line; echo {index}")).await) });
    }
    let mut running = Vec::new();
    while let Some(started) = starting.join_next().await {
        let (index, stream) = started?;
        running.push((index, stream?));
    }
    // Each was started while all the others waited.
    for (index, stream) in &mut running {
        stream.input.write("go\n".into()).await?;
        let told = read_all(stream).await?;
        ensure_eq!(told.stdout, format!("{index}\n").into_bytes(), "command {index}");
    }
    Ok(())
}

/// Noise without an end in memory, of the guest's generator; the digest of what was read is the guest's as well.
struct Noise {
    state: u64,
    left: u64,
    digest: Digest,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Digest(u64);

impl Digest {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Whole words only, but for the last call.
    fn add(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl Noise {
    fn new(length: u64, seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, left: length, digest: Digest::new() }
    }
}

impl AsyncRead for Noise {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Poller<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let words = (buffer.remaining() as u64).min(self.left) / 8;
        for _ in 0..words {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            let word = self.state.to_le_bytes();
            buffer.put_slice(&word);
            self.digest.add(&word);
        }
        self.left -= words * 8;
        Poll::Ready(Ok(()))
    }
}

async fn in_and_out(context: &Context, length: u64) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let agent = sandbox.agent_pid().ok();
    let before = agent.and_then(host::resident_kib);
    let mut source = Noise::new(length, 77);
    sandbox.put_file("large", PutOptions::default(), &mut source).await?;
    let expected = format!("{:016x} {length}\n", source.digest.0);
    ensure_eq!(sandbox.guest(&["digest", "large"]).await?.stdout_text(), expected, "digest and length inside");
    let (stat, mut reader) = sandbox.get_file("large", 0).await?;
    ensure_eq!(stat.size, length, "the size");
    let (mut digest, mut total, mut buffer) = (Digest::new(), 0u64, vec![0; 1 << 20]);
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match reader.read(&mut buffer[filled..]).await? {
                0 => break,
                read => filled += read,
            }
        }
        digest.add(&buffer[..filled]);
        total += filled as u64;
        if filled < buffer.len() {
            break;
        }
    }
    ensure!(total == length && digest == source.digest, "{total} bytes of {length} came back, or others");
    grew_little(agent, before)
}

/// Compares the agent's memory with what it was, where the host can see it.
fn grew_little(agent: Option<u32>, before: Option<u64>) -> Result<(), Failure> {
    if let (Some(before), Some(after)) = (before, agent.and_then(host::resident_kib)) {
        ensure!(after < before + GROWTH_KIB, "the agent grew from {before} to {after} KiB");
    }
    Ok(())
}

async fn a_gibibyte_goes_in_and_out(context: &Context) -> Result<(), Failure> {
    in_and_out(context, 1 << 30).await
}

async fn sixteen_mebibytes_go_in_and_out(context: &Context) -> Result<(), Failure> {
    in_and_out(context, 16 << 20).await
}

/// How long a reader stops: a minute with `SANDBAR_LONG=1`, and in continuous integration behind one wall, where it waits beside the other
/// cases; else five seconds.
fn stall(context: &Context) -> Duration {
    let long = std::env::var_os("SANDBAR_LONG").is_some();
    let integration = std::env::var("CI").is_ok_and(|value| value == "true") && context.subject().name == "container-root";
    Duration::from_secs(if long || integration { 60 } else { 5 })
}

async fn a_reader_that_stops_costs_the_agent_no_memory(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let agent = sandbox.agent_pid().ok();
    let before = agent.and_then(host::resident_kib);
    let length = 256u64 << 20;
    let mut stopped = Vec::new();
    for _ in 0..4 {
        stopped.push(sandbox.exec_stream(ExecRequest::argv(["./guest", "noise", &length.to_string(), "3"])).await?);
    }
    let until = tokio::time::Instant::now() + stall(context);
    while tokio::time::Instant::now() < until {
        timeout(SOON, sandbox.text("echo others go on")).await??;
        grew_little(agent, before)?;
        sleep(Duration::from_millis(200)).await;
    }
    let mut last = stopped.pop().ok_or_else(|| Failure::new("no stream"))?;
    let mut read = 0;
    while let Some(event) = last.output.next().await? {
        match event {
            ExecEvent::Output { offset, data, .. } => {
                ensure_eq!(offset, read, "an offset");
                read += data.len() as u64;
            }
            ExecEvent::Lost { bytes } => return Err(Failure::new(format!("{bytes} bytes were lost"))),
            ExecEvent::Exited(status) => ensure!(status.success(), "it ended with {status}"),
        }
    }
    ensure_eq!(read, length, "bytes");
    for stream in stopped {
        sandbox.kill(stream.pid).await?;
    }
    Ok(())
}

async fn detached_output_costs_the_agent_no_memory(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let agent = sandbox.agent_pid().ok();
    let before = agent.and_then(host::resident_kib);
    for _ in 0..4 {
        let stream = sandbox.exec_stream(ExecRequest::argv(["./guest", "noise", &(256u64 << 20).to_string(), "3"])).await?;
        let pid = stream.pid;
        drop(stream);
        sandbox.ended(pid).await?;
        grew_little(agent, before)?;
    }
    Ok(())
}
