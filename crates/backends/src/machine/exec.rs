use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use sandbar_core::{
    Error, ErrorKind, ExecEvent, ExecInput, ExecOutput, ExecRequest, ExecStream, OutputKind, ProcessInfo, Program, PtySize, Result, Signal,
};
use sandbar_protocol::{
    Attach, EnvVar, Event, Exec, Frame, FrameError, FrameKind, Input, List, SignalProcess, Started, event, input, reply::Answer,
    request::Operation,
};

use super::{
    Backend, answer,
    client::{Call, Link, Patience, Reader, Writer},
    config::user_ref,
};

/// More processes than any agent remembers.
pub(super) const MAX_PROCESSES: usize = 100_000;

impl<B: Backend> Call<B> {
    /// Starts a process: one connection, one write, then only reads.
    ///
    /// # Errors
    /// What the agent says; as [`ask`](Self::ask).
    pub(super) async fn exec(self, request: ExecRequest) -> Result<ExecStream> {
        let stdin = request.stdin || request.pty.is_some();
        let pty = request.pty.is_some();
        let asked = self.ask(Operation::Exec(exec_message(request)), Patience::Quick).await?;
        self.stream(asked, stdin, pty)
    }

    /// Attaches to a process.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub(super) async fn attach(self, pid: u32, from: Option<u64>) -> Result<ExecStream> {
        let asked = self.ask(Operation::Attach(Attach { pid, from }), Patience::Quick).await?;
        // Whether it has a terminal, and whether its stdin is streamed, only the agent knows; it ignores what has no place.
        self.stream(asked, true, true)
    }

    /// The processes.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) async fn processes(self) -> Result<Vec<ProcessInfo>> {
        match self.ask(Operation::List(List {}), Patience::Quick).await? {
            (_, Answer::Processes(list)) if list.processes.len() <= MAX_PROCESSES => {
                list.processes.into_iter().map(|process| answer::process(self.verb, process)).collect()
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Signals a process group.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub(super) async fn signal(self, pid: u32, signal: Signal) -> Result<()> {
        self.order(Operation::Signal(SignalProcess { pid, signal: signal.0 }), Patience::Quick).await.map(drop)
    }

    fn stream(self, (link, answer): (Link, Answer), stdin: bool, pty: bool) -> Result<ExecStream> {
        let Answer::Started(Started { pid, offset, .. }) = answer else { return Err(self.unexpected()) };
        let pid = answer::pid(self.verb, pid)?;
        let closed = Arc::new(AtomicBool::new(false));
        let input = Box::new(LiveInput { call: self.clone(), writer: link.writer, stdin, pty, closed: Arc::clone(&closed) });
        Ok(ExecStream {
            pid,
            input,
            output: Box::new(LiveOutput { call: self, reader: link.reader, offset, ended: false, input_closed: closed }),
        })
    }
}

fn exec_message(request: ExecRequest) -> Exec {
    let milliseconds = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let argv = match request.program {
        Program::Argv(argv) => argv,
        Program::Shell(line) => vec![b"/bin/sh".to_vec(), b"-c".to_vec(), line.into_bytes()],
    };
    let variable = |(name, value): (String, Option<String>)| EnvVar { name: name.into_bytes(), value: value.map(String::into_bytes) };
    Exec {
        argv,
        env: request.env.into_iter().map(variable).collect(),
        workdir: request.workdir.map(String::into_bytes),
        user: request.user.as_ref().map(user_ref),
        pty: request.pty.map(wire_size),
        stdin: request.stdin || request.pty.is_some(),
        // On the wire 0 is "never"; a timeout of nothing is the shortest there is.
        timeout_ms: request.timeout.map_or(0, |timeout| milliseconds(timeout).max(1)),
        grace_ms: milliseconds(request.grace),
        kill_on_disconnect: request.kill_on_disconnect,
    }
}

fn wire_size(size: PtySize) -> sandbar_protocol::PtySize {
    sandbar_protocol::PtySize { rows: size.rows.into(), columns: size.columns.into() }
}

/// The writing half of an exec's connection.
struct LiveInput<B: Backend> {
    call: Call<B>,
    writer: Writer,
    stdin: bool,
    pty: bool,
    /// The other half has heard that the process closed its stdin.
    closed: Arc<AtomicBool>,
}

impl<B: Backend> LiveInput<B> {
    async fn sent(&mut self, sent: Result<(), FrameError>) -> Result<()> {
        match sent {
            Ok(()) => Ok(()),
            // The agent closes when the process has ended: its status is on the other half.
            Err(FrameError::Io(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                Err(Error::new(ErrorKind::Unavailable, self.call.verb, "the process does not take input any more").with_source(error))
            }
            Err(error) => Err(self.call.explain(error).await),
        }
    }

    async fn say(&mut self, what: input::What) -> Result<()> {
        let sent = self.writer.message(&Input { what: Some(what) }).await;
        self.sent(sent).await
    }
}

#[async_trait]
impl<B: Backend> ExecInput for LiveInput<B> {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        if !self.stdin {
            return Err(Error::new(ErrorKind::InvalidInput, self.call.verb, "stdin is closed, or was not asked for"));
        }
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::new(ErrorKind::Unavailable, self.call.verb, "the process does not take input any more"));
        }
        let sent = self.writer.bytes(FrameKind::Bytes, &data).await;
        self.sent(sent).await
    }

    async fn close(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.stdin) {
            return Ok(());
        }
        let sent = self.writer.end().await;
        self.sent(sent).await
    }

    async fn signal(&mut self, signal: Signal) -> Result<()> {
        self.say(input::What::Signal(signal.0)).await
    }

    async fn resize(&mut self, size: PtySize) -> Result<()> {
        if !self.pty {
            return Err(Error::new(ErrorKind::InvalidInput, self.call.verb, "the process has no terminal"));
        }
        self.say(input::What::Resize(wire_size(size))).await
    }
}

/// The reading half of an exec's connection.
struct LiveOutput<B: Backend> {
    call: Call<B>,
    reader: Reader,
    offset: u64,
    ended: bool,
    /// For the writing half.
    input_closed: Arc<AtomicBool>,
}

impl<B: Backend> LiveOutput<B> {
    fn advance(&mut self, bytes: u64) -> Result<u64> {
        let begin = self.offset;
        self.offset = begin.checked_add(bytes).ok_or_else(|| answer::nonsense(self.call.verb, "an offset out of range"))?;
        Ok(begin)
    }

    /// The event in a frame; `None` for a frame that says nothing.
    fn event(&mut self, frame: Frame) -> Result<Option<ExecEvent>> {
        let verb = self.call.verb;
        let kind = match frame.kind {
            FrameKind::Stdout => OutputKind::Stdout,
            FrameKind::Stderr => OutputKind::Stderr,
            FrameKind::Bytes | FrameKind::End => return Err(answer::nonsense(verb, "a frame that is no output")),
            FrameKind::Message => {
                let event = frame.message::<Event>().map_err(|error| answer::nonsense(verb, "an event that is none").with_source(error))?;
                return match event.what {
                    Some(event::What::Lost(lost)) => {
                        self.advance(lost.bytes)?;
                        Ok((lost.bytes > 0).then_some(ExecEvent::Lost { bytes: lost.bytes }))
                    }
                    Some(event::What::Exited(exited)) => {
                        self.ended = true;
                        answer::status(verb, exited.status).map(|status| Some(ExecEvent::Exited(status)))
                    }
                    Some(event::What::Failure(failure)) => Err(answer::failure(verb, &failure)),
                    Some(event::What::InputClosed(_)) => {
                        self.input_closed.store(true, Ordering::Relaxed);
                        Ok(None)
                    }
                    // Something that a later agent says, or that has no place here.
                    Some(event::What::Watch(_)) | None => Ok(None),
                };
            }
        };
        if frame.payload.is_empty() {
            return Ok(None);
        }
        let offset = self.advance(frame.payload.len() as u64)?;
        Ok(Some(ExecEvent::Output { kind, offset, data: frame.payload }))
    }
}

#[async_trait]
impl<B: Backend> ExecOutput for LiveOutput<B> {
    async fn next(&mut self) -> Result<Option<ExecEvent>> {
        while !self.ended {
            match self.reader.next().await {
                Ok(Some(frame)) => {
                    if let Some(event) = self.event(frame)? {
                        return Ok(Some(event));
                    }
                }
                Ok(None) => return Err(self.call.explain(FrameError::Cut).await),
                Err(error) => return Err(self.call.explain(error).await),
            }
        }
        Ok(None)
    }
}
