use std::{
    io,
    pin::Pin,
    process::Stdio,
    task::{Context, Poll},
    time::Duration,
};

use sandbar_core::{Error, ErrorKind, Result};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout},
    time::timeout,
};

use super::{
    super::problem::OPERATION,
    route::{Route, for_sh, unavailable},
};
use crate::Distribution;

/// What the other side says first: that it is ready, and with what, or that the program is missing, and on what system.
///
/// As `sandbar-server` greets at a socket (`socket::GREETING`).
pub(super) const READY: &str = "sandbar-ready";
pub(super) const MISSING: &str = "sandbar-missing";
/// Bytes that a login may print (by its shell's start-up files) before the program is heard of.
const LONGEST_GREETING: usize = 64 << 10;
/// Bytes of complaints that are told.
const LONGEST_COMPLAINT: usize = 2 << 10;
/// How long complaints are waited for: `ssh` has written them when it ends, but what it leaves behind holds the pipe.
const COMPLAINT: Duration = Duration::from_millis(200);

/// What the other side began with.
pub(super) enum Greeting {
    /// The program is there, and has said this.
    Ready(String),
    /// It is not; the system there: `Linux x86_64`.
    Missing(String),
}

/// Standard input and output of a command there.
pub(super) struct Stream {
    child: Child,
    /// `None` once its end was said.
    pub(super) input: Option<ChildStdin>,
    output: ChildStdout,
    errors: ChildStderr,
}

impl Stream {
    /// Has a script run there.
    pub(super) fn start(route: &Route, script: &str) -> Result<Self> {
        let mut command = route.command()?;
        command.arg("--").arg(&route.address.host).arg(for_sh(script));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            Error::io(OPERATION, "ssh cannot be started", error)
                .with_hint(format!("ssh:// goes by OpenSSH's own ssh: {}", Distribution::here().how_to_install(&["ssh"])))
        })?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(Error::new(ErrorKind::Internal, OPERATION, "ssh has no pipes"));
        };
        Ok(Self { child, input: Some(input), output, errors })
    }

    /// The first line of ours, after whatever a login prints. Not a byte more is read.
    pub(super) async fn greeting(&mut self) -> io::Result<Greeting> {
        let mut line = Vec::new();
        for _ in 0..LONGEST_GREETING {
            match self.output.read_u8().await? {
                b'\n' => {
                    let text = String::from_utf8_lossy(&line);
                    if let Some(what) = text.strip_prefix(READY) {
                        return Ok(Greeting::Ready(what.trim().to_owned()));
                    }
                    if let Some(system) = text.strip_prefix(MISSING) {
                        return Ok(Greeting::Missing(system.trim().to_owned()));
                    }
                    line.clear();
                }
                byte => line.push(byte),
            }
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "the login prints too much"))
    }

    /// Why there is no such line.
    pub(super) async fn complaint(&mut self, route: &Route, error: Option<io::Error>) -> Error {
        let mut said = Vec::new();
        let mut complaints = (&mut self.errors).take(LONGEST_COMPLAINT as u64);
        let _ = timeout(COMPLAINT, complaints.read_to_end(&mut said)).await;
        let _ = self.child.start_kill();
        let said = String::from_utf8_lossy(&said).lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        let message = if said.is_empty() { "the login fails, or does not answer".to_owned() } else { format!("ssh says: {said}") };
        let told = unavailable(&message, &route.address).with_hint(format!("does `ssh {}` work?", route.address.host));
        match error {
            Some(error) => told.with_source(error),
            None => told,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(context, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.input {
            Some(input) => Pin::new(input).poll_write(context, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.as_mut().map_or(Poll::Ready(Ok(())), |input| Pin::new(input).poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.as_mut().poll_flush(context))?;
        self.input = None;
        Poll::Ready(Ok(()))
    }
}
