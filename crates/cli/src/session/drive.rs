use std::{io, pin::pin, time::Duration};

use sandbar_core::{Error, ErrorKind, ExecEvent, ExecOutput, ExecRequest, ExecStream, ExitStatus, OutputKind, Signal};
use sandbar_runtime::Sandbox;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use super::{
    detach::DetachKeys,
    escalation::{Escalation, Step},
    feed::Feed,
    stdin,
};
use crate::{
    error::{Failure, Outcome},
    output::{self, Relay},
    signals::{Heard, Signals},
    terminal::{self, RawMode},
};

/// From TERM to KILL, when somebody ended us: long enough to save something, shorter than what waits for us usually waits.
const GRACE: Duration = Duration::from_secs(5);
/// From KILL, or SIGPIPE, to giving up on hearing of the end.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a session is connected.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Session {
    /// Whether standard input is passed on.
    pub(crate) stdin: bool,
    /// Whether the command has a terminal.
    pub(crate) pty: bool,
    /// Whether ctrl-p ctrl-q detaches.
    pub(crate) detach_keys: bool,
    /// Whether the command lives on, and is not told, when we are asked to end.
    pub(crate) outlives_us: bool,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The command ended.
    Exited(ExitStatus),
    /// The person detached; the command runs on.
    Detached,
    /// We were asked to end, by this signal.
    Signaled(Signal),
}

impl End {
    /// The status to exit with.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Exited(status) => status.shell_code(),
            Self::Detached => 0,
            Self::Signaled(signal) => ExitStatus::signaled(signal.0).shell_code(),
        }
    }
}

enum Told {
    Exited(ExitStatus),
    Closed(io::Error, Box<dyn ExecOutput>),
}

impl Session {
    /// Starts a command and connects it to this process until one of them ends.
    ///
    /// # Errors
    /// Those of the start, and of [`drive`](Self::drive).
    pub(crate) async fn run(self, sandbox: &Sandbox, request: ExecRequest, signals: &mut Signals) -> Outcome<End> {
        match signals.or(sandbox.exec_stream(request)).await {
            Ok(stream) => self.drive(sandbox, stream?, signals).await,
            Err(signal) => Ok(End::Signaled(signal)),
        }
    }

    /// Connects a command to this process until one of them ends.
    ///
    /// # Errors
    /// [`Failure::OutputClosed`] when nobody reads our output any more (the command is ended first, as SIGPIPE would end it);
    /// else those of the stream.
    pub(crate) async fn drive(self, sandbox: &Sandbox, stream: ExecStream, signals: &mut Signals) -> Outcome<End> {
        let ExecStream { pid, input, output } = stream;
        let raw = if self.pty && self.stdin { RawMode::enter()? } else { None };
        // The first value counts as a change: the size may be another one since the request, or since somebody else's attachment.
        let (resize, mut sizes) = watch::channel(terminal::size());
        sizes.mark_changed();
        let stdin = if self.stdin { Some(stdin::start()?) } else { None };
        let keys = (self.detach_keys && raw.is_some()).then(DetachKeys::default);
        let mut feed = pin!(Feed { input, stdin, sizes: self.pty.then_some(sizes), keys }.run());
        let mut relay = pin!(relay(output));
        let mut escalation = Escalation::default();
        let mut ending: Option<(Instant, Signal)> = None;

        let told = loop {
            tokio::select! {
                told = &mut relay => break told?,
                () = &mut feed => return Ok(End::Detached),
                heard = signals.next() => match heard {
                    Heard::Resized => {
                        let _ = resize.send(terminal::size());
                    }
                    Heard::Continued => {
                        if let Some(raw) = &raw {
                            raw.renew();
                        }
                    }
                    Heard::Signal(signal @ (Signal::HUP | Signal::TERM)) if self.outlives_us => return Ok(End::Signaled(signal)),
                    Heard::Signal(signal) => match escalation.on(signal, std::time::Instant::now()) {
                        Step::Pass(signal) => pass(sandbox, pid, signal),
                        Step::PassAndEnd(signal) => {
                            pass(sandbox, pid, signal);
                            ending = Some((Instant::now() + GRACE, signal));
                        }
                        Step::End => {
                            pass(sandbox, pid, Signal::KILL);
                            ending = Some((Instant::now() + LAST_WORDS, Signal::KILL));
                        }
                    },
                },
                signal = deadline(ending) => {
                    if signal == Signal::KILL {
                        return Ok(End::Signaled(signal));
                    }
                    kill(sandbox, pid).await;
                    return Ok(End::Signaled(signal));
                }
            }
        };
        match told {
            Told::Exited(status) => Ok(End::Exited(status)),
            Told::Closed(error, mut output) => {
                let _ = sandbox.signal(pid, Signal(13)).await;
                let discard = async { while let Ok(Some(_)) = output.next().await {} };
                if timeout(LAST_WORDS, discard).await.is_err() {
                    kill(sandbox, pid).await;
                }
                Err(Failure::output(error))
            }
        }
    }
}

/// Passes output on until the command has ended and all of it is written.
async fn relay(mut output: Box<dyn ExecOutput>) -> Result<Told, Error> {
    let mut relay = Relay::new();
    while let Some(event) = output.next().await? {
        let written = match event {
            ExecEvent::Output { kind, data, .. } => relay.write(kind, data).await,
            ExecEvent::Lost { bytes } => {
                let text = format!("sandbar: {bytes} bytes of output are not kept any more\n");
                relay.write(OutputKind::Stderr, text.into()).await
            }
            ExecEvent::Exited(status) => match relay.flush().await {
                Ok(()) => return Ok(Told::Exited(status)),
                Err(error) => Err(error),
            },
        };
        if let Err(error) = written {
            return Ok(Told::Closed(error, output));
        }
    }
    Err(Error::new(ErrorKind::Unavailable, "exec", "the stream ended without a status"))
}

/// Beside the stream and not through it: standard input may be waiting there for a command that does not read.
fn pass(sandbox: &Sandbox, pid: u32, signal: Signal) {
    let sandbox = sandbox.clone();
    tokio::spawn(async move {
        if let Err(error) = sandbox.signal(pid, signal).await
            && error.kind() != ErrorKind::Conflict
        {
            output::note(&format!("sandbar: the signal did not arrive: {}", error.chain()));
        }
    });
}

async fn kill(sandbox: &Sandbox, pid: u32) {
    let _ = timeout(LAST_WORDS, sandbox.signal(pid, Signal::KILL)).await;
}

async fn deadline(ending: Option<(Instant, Signal)>) -> Signal {
    match ending {
        Some((at, signal)) => {
            sleep_until(at).await;
            signal
        }
        None => std::future::pending().await,
    }
}
