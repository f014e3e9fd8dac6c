use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sandbar_core::{ExecEvent, ExecOutput, ExecRequest, ExecStream, OutputKind, ProcessInfo, Program, PtySize, Result, Signal};
use sandbar_protocol::{
    Attach, EnvVar, Event, Exec, Frame, FrameError, FrameKind, List, SignalProcess, event, reply::Answer, request::Operation,
};

use super::{
    Backend, answer,
    client::{Call, Link, Patience, Reader},
    config::user_ref,
    input::LiveInput,
    rejoin::{Place, Session},
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
        let (pty, kill) = (request.pty.is_some(), request.kill_on_disconnect);
        let asked = self.ask_unsaved(Operation::Exec(exec_message(request)), Patience::Quick).await?;
        self.stream(asked, stdin, pty, kill)
    }

    /// Attaches to a process.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub(super) async fn attach(self, pid: u32, from: Option<u64>) -> Result<ExecStream> {
        let asked = self.ask_unsaved(Operation::Attach(Attach { pid, from, ..Attach::default() }), Patience::Quick).await?;
        // Whether it has a terminal, and whether its stdin is streamed, only the agent knows; it ignores what has no place.
        self.stream(asked, true, true, false)
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

    fn stream(self, (link, answer): (Link, Answer), stdin: bool, pty: bool, kill: bool) -> Result<ExecStream> {
        let Answer::Started(started) = answer else { return Err(self.unexpected()) };
        let pid = answer::pid(self.verb, started.pid)?;
        let closed = Arc::new(AtomicBool::new(false));
        let session = Arc::new(Session::new(pid, link.writer, &started, kill));
        let input = LiveInput {
            call: self.clone(),
            joined: session.joined(),
            session: Arc::clone(&session),
            taken: started.input,
            stdin,
            pty,
            ended: false,
            closed: Arc::clone(&closed),
        };
        let output = LiveOutput {
            call: self,
            session,
            reader: link.reader,
            place: Place::at(started.offset),
            ended: false,
            input_closed: closed,
            returning: None,
        };
        Ok(ExecStream { pid, input: Box::new(input), output: Box::new(output) })
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

pub(super) fn wire_size(size: PtySize) -> sandbar_protocol::PtySize {
    sandbar_protocol::PtySize { rows: size.rows.into(), columns: size.columns.into() }
}

/// The reading half of an exec's connection.
struct LiveOutput<B: Backend> {
    call: Call<B>,
    session: Arc<Session>,
    reader: Reader,
    place: Place,
    ended: bool,
    /// For the writing half.
    input_closed: Arc<AtomicBool>,
    /// On the way back after a cut, whoever waits for it: an attachment that was asked for and that nobody takes would be a client that leaves.
    returning: Option<Return<B>>,
}

/// Gives what it needs for the next time, too.
type Return<B> = BoxFuture<'static, (Call<B>, Place, Result<Reader>)>;

impl<B: Backend> LiveOutput<B> {
    /// Begins to come back after a cut that was none of the sandbox's doing.
    fn come_back(&mut self, cut: FrameError) {
        let (mut call, mut place, session) = (self.call.clone(), self.place, Arc::clone(&self.session));
        self.returning = Some(Box::pin(async move {
            let rejoined = session.rejoin(&mut call, &mut place, cut).await;
            (call, place, rejoined)
        }));
    }

    /// Waits until it is back, if it is on the way. Goes on where it was when it is dropped and called again.
    async fn be_back(&mut self) -> Result<()> {
        if let Some(returning) = &mut self.returning {
            let (call, place, rejoined) = returning.await;
            (self.returning, self.call, self.place) = (None, call, place);
            self.reader = rejoined.inspect_err(|_| self.session.end())?;
        }
        Ok(())
    }

    fn advance(&mut self, bytes: u64) -> Result<u64> {
        let begin = self.place.offset;
        self.place.offset = begin.checked_add(bytes).ok_or_else(|| answer::nonsense(self.call.verb, "an offset out of range"))?;
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
                        self.input_closed.store(true, Ordering::Relaxed);
                        self.session.end();
                        answer::status(verb, exited.status).map(|status| Some(ExecEvent::Exited(status)))
                    }
                    Some(event::What::Failure(failure)) => Err(answer::failure(verb, &failure)),
                    Some(event::What::InputClosed(_)) => {
                        self.input_closed.store(true, Ordering::Relaxed);
                        Ok(None)
                    }
                    // Something that a later agent says, or that has no place here.
                    Some(event::What::Watch(_) | event::What::Ports(_)) | None => Ok(None),
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
            self.be_back().await?;
            match self.reader.next().await {
                Ok(Some(frame)) => {
                    if let Some(event) = self.event(frame)? {
                        return Ok(Some(event));
                    }
                }
                Ok(None) => self.come_back(FrameError::Cut),
                Err(error) => self.come_back(error),
            }
        }
        Ok(None)
    }
}

impl<B: Backend> Drop for LiveOutput<B> {
    fn drop(&mut self) {
        self.session.end();
    }
}
