//! Reading the events of an exec.

use std::time::Duration;

use sandbar_core::{ExecEvent, ExecStream, ExitStatus, OutputKind};
use tokio::time::timeout;

use crate::{Failure, failure::ensure, sandbox::patience};

/// Everything that was told until the end.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) lost: u64,
    /// The offset of the first byte that was told.
    pub(crate) first: Option<u64>,
    pub(crate) status: Option<ExitStatus>,
}

/// Reads to the end and checks what is always true: no empty output, offsets without gaps, nothing after the end.
pub(crate) async fn read_all(stream: &mut ExecStream) -> Result<Told, Failure> {
    let mut told = Told::default();
    let mut next = None;
    while let Some(event) = stream.output.next().await? {
        match event {
            ExecEvent::Output { kind, offset, data } => {
                ensure!(!data.is_empty(), "an output event was empty");
                ensure!(next.is_none_or(|next| next == offset), "output at offset {offset}, expected {next:?}");
                next = Some(offset + data.len() as u64);
                told.first.get_or_insert(offset);
                match kind {
                    OutputKind::Stdout => told.stdout.extend_from_slice(&data),
                    OutputKind::Stderr => told.stderr.extend_from_slice(&data),
                }
            }
            ExecEvent::Lost { bytes } => {
                ensure!(bytes > 0, "a loss of 0 bytes was told");
                told.lost += bytes;
                next = next.map(|next| next + bytes);
            }
            ExecEvent::Exited(status) => {
                ensure!(told.status.is_none(), "the end was told twice");
                told.status = Some(status);
            }
        }
        ensure!(told.status.is_none() || stream.output.next().await?.is_none(), "something was told after the end");
        if told.status.is_some() {
            break;
        }
    }
    ensure!(told.status.is_some(), "the stream ended without a status");
    Ok(told)
}

/// Reads until the output of both streams together ends with, or holds, `needle`; gives what was read.
pub(crate) async fn read_until(stream: &mut ExecStream, needle: &str) -> Result<String, Failure> {
    let mut text = Vec::new();
    let reading = async {
        loop {
            match stream.output.next().await? {
                Some(ExecEvent::Output { data, .. }) => text.extend_from_slice(&data),
                Some(ExecEvent::Lost { bytes }) => return Err(Failure::new(format!("{bytes} bytes were lost before {needle:?}"))),
                Some(ExecEvent::Exited(status)) => return Err(Failure::new(format!("ended ({status}) before {needle:?}"))),
                None => return Err(Failure::new(format!("the stream ended before {needle:?}"))),
            }
            if text.windows(needle.len()).any(|window| window == needle.as_bytes()) {
                return Ok(());
            }
        }
    };
    let outcome = timeout(patience(), reading).await;
    let text = String::from_utf8_lossy(&text).into_owned();
    match outcome {
        Ok(Ok(())) => Ok(text),
        Ok(Err(failure)) => Err(failure.during(format!("after {:?}", tail(&text)))),
        Err(_) => Err(Failure::new(format!("{needle:?} never came; read {:?}", tail(&text)))),
    }
}

fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(400);
    (start..text.len()).find_map(|start| text.get(start..)).unwrap_or_default()
}

/// Whether output comes within `within`. An end is a failure.
pub(crate) async fn hears(stream: &mut ExecStream, within: Duration) -> Result<bool, Failure> {
    match timeout(within, stream.output.next()).await {
        Err(_) => Ok(false),
        Ok(Ok(Some(ExecEvent::Output { .. }))) => Ok(true),
        Ok(Ok(other)) => Err(Failure::new(format!("expected output, heard {other:?}"))),
        Ok(Err(error)) => Err(error.into()),
    }
}

/// Reads what is under way until nothing comes for `quiet`.
pub(crate) async fn drain(stream: &mut ExecStream, quiet: Duration) -> Result<(), Failure> {
    let draining = async {
        while hears(stream, quiet).await? {}
        Ok(())
    };
    timeout(patience(), draining).await.map_err(|_| Failure::new("output never paused"))?
}
