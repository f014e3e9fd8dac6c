//! A command on another host.
//!
//! The connection may be cut: the process lives on there, and the output goes on where it was, over a new one. What was written to standard input is
//! confirmed (each message is followed by a ping, which the server answers when it has passed on what came before), so it is known whether something
//! may be missing: then no more is sent, and the output ends with an error that says so. Who lets go of a command takes leave of the server, which has
//! heard everything before that: a connection that is only closed is reset by the next output, and what was said last is lost.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use sandbar_core::{
    Error, ErrorKind, ExecEvent, ExecInput, ExecOutput, ExecStream, ExitStatus, OutputKind, ProcessInfo, PtySize, Result, Signal,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use super::{
    client::{Ask, Client, QUICK, Socket},
    problem::{OPERATION, error_of, lost, strange},
};

/// How long a connection that was cut is tried to be made again, also where something between answers that nobody is there.
const PERSISTENCE: Duration = Duration::from_secs(30);
/// Between two attempts at first; twice as long each time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Between two attempts at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// The server says something every 30 s, if only that it is there.
const SILENCE: Duration = Duration::from_secs(75);
/// How often it hears from us, also while we do not listen.
const PULSE: Duration = Duration::from_secs(15);
/// How long a server that somebody takes leave of may take to hear it.
const FAREWELL: Duration = Duration::from_secs(10);
/// Bytes of a message.
const PIECE: usize = 64 << 10;

/// What a server says in words.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Word {
    Started {
        pid: u32,
    },
    Lost {
        bytes: u64,
    },
    Exited {
        status: ExitStatus,
    },
    Error {
        problem: Value,
    },
    #[serde(other)]
    Unknown,
}

/// Where the process is.
#[derive(Clone)]
pub(super) struct Whereabouts {
    pub(super) client: Arc<Client>,
    /// `/v1/sandboxes/ID`.
    pub(super) sandbox: String,
}

impl Whereabouts {
    /// Starts a command.
    pub(super) async fn exec(&self, command: &Value, pty: bool) -> Result<ExecStream> {
        let mut socket = self.client.socket(Ask::get(format!("{}/exec", self.sandbox))).await?;
        socket.send(Message::text(command.to_string())).await.map_err(cut)?;
        let pid = started(&mut socket).await?;
        Ok(self.stream(socket, pid, Some(pty), 0))
    }

    /// Attaches to a process.
    pub(super) async fn attach(&self, pid: u32, from: Option<u64>) -> Result<ExecStream> {
        let socket = self.attached(pid, from).await?;
        Ok(self.stream(socket, pid, None, from.unwrap_or_default()))
    }

    async fn attached(&self, pid: u32, from: Option<u64>) -> Result<Socket> {
        let mut ask = Ask::get(format!("{}/processes/{pid}/attach", self.sandbox));
        if let Some(from) = from {
            ask = ask.with("from", from.to_string());
        }
        let mut socket = self.client.socket(ask).await?;
        started(&mut socket).await?;
        Ok(socket)
    }

    fn stream(&self, socket: Socket, pid: u32, pty: Option<bool>, next: u64) -> ExecStream {
        let (sink, source) = socket.split();
        let (sink, source) = (Arc::new(tokio::sync::Mutex::new(sink)), Arc::new(tokio::sync::Mutex::new(source)));
        let line = Arc::new(Line { sink, source, cut: Notify::new(), stdin: Mutex::default() });
        tokio::spawn(show_life(Arc::downgrade(&line)));
        let input = Input { line: Arc::clone(&line), place: self.clone(), pid, pty };
        let output = Output { line, place: self.clone(), pid, next, told: None, ended: false };
        ExecStream { pid, input: Box::new(input), output: Box::new(output) }
    }
}

/// What input and output share.
struct Line {
    sink: Arc<tokio::sync::Mutex<SplitSink<Socket, Message>>>,
    /// The output's alone, as long as there is one.
    source: Arc<tokio::sync::Mutex<SplitStream<Socket>>>,
    /// Told when the connection is another one: whoever waits for the old one waits in vain.
    cut: Notify,
    stdin: Mutex<Stdin>,
}

/// What is known of standard input.
#[derive(Default)]
struct Stdin {
    sent: u64,
    confirmed: u64,
    /// Something may be missing: nothing may come after it.
    doubtful: bool,
    /// What the server said of what was sent.
    refused: Option<Value>,
}

impl Line {
    fn stdin(&self) -> MutexGuard<'_, Stdin> {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        let sent = async {
            let mut sink = self.sink.lock().await;
            for message in messages {
                sink.feed(message).await?;
            }
            sink.flush().await
        };
        tokio::select! {
            sent = sent => sent.map_err(cut),
            () = self.cut.notified() => Err(lost("the connection was cut")),
        }
    }

    /// Sends what counts: bytes of standard input, or its end.
    async fn feed(&self, message: Message) -> Result<()> {
        let number = {
            let mut stdin = self.stdin();
            if let Some(problem) = &stdin.refused {
                return Err(error_of(problem));
            }
            if stdin.doubtful {
                return Err(in_doubt());
            }
            stdin.sent += 1;
            stdin.sent
        };
        let sent = self.send([message, Message::Ping(Bytes::copy_from_slice(&number.to_be_bytes()))]).await;
        if sent.is_err() {
            self.stdin().doubtful = true;
        }
        sent
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Without an event loop the process is ending.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (sink, source) = (Arc::clone(&self.sink), Arc::clone(&self.source));
            runtime.spawn(timeout(FAREWELL, take_leave(sink, source)));
        }
    }
}

/// Says that nothing more comes, and waits until the server has heard that.
async fn take_leave(sink: Arc<tokio::sync::Mutex<SplitSink<Socket, Message>>>, source: Arc<tokio::sync::Mutex<SplitStream<Socket>>>) {
    if sink.lock().await.send(Message::Close(None)).await.is_ok() {
        let mut source = source.lock().await;
        while let Some(Ok(_)) = source.next().await {}
    }
}

fn in_doubt() -> Error {
    lost("the connection was cut while input was on its way: some of it may not have come, so no more is sent")
}

/// Lets the server hear that somebody is there.
async fn show_life(line: Weak<Line>) {
    loop {
        sleep(PULSE).await;
        let Some(line) = line.upgrade() else { return };
        // A connection that is cut is the output's to mend.
        let _ = line.send([Message::Ping(Bytes::new())]).await;
    }
}

async fn started(socket: &mut Socket) -> Result<u32> {
    loop {
        let message = timeout(QUICK, socket.next()).await.map_err(|_| lost("the command does not start"))?;
        let message = message.ok_or_else(|| lost("the connection was cut"))?.map_err(cut)?;
        if let Message::Text(text) = message {
            return match serde_json::from_str(&text) {
                Ok(Word::Started { pid }) => Ok(pid),
                Ok(Word::Error { problem }) => Err(error_of(&problem)),
                _ => Err(strange("a command begins with words that are not known")),
            };
        }
    }
}

fn cut(error: tokio_tungstenite::tungstenite::Error) -> Error {
    lost("the connection was cut").with_source(error)
}

struct Input {
    line: Arc<Line>,
    place: Whereabouts,
    pid: u32,
    /// Whether it has a terminal, once that is known.
    pty: Option<bool>,
}

#[async_trait]
impl ExecInput for Input {
    async fn write(&mut self, mut data: Bytes) -> Result<()> {
        while data.has_remaining() {
            let piece = data.split_to(data.len().min(PIECE));
            self.line.feed(Message::Binary(piece)).await?;
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<()> {
        self.line.feed(Message::text(json!({ "type": "close_stdin" }).to_string())).await
    }

    async fn signal(&mut self, signal: Signal) -> Result<()> {
        self.line.send([Message::text(json!({ "type": "signal", "signal": signal.0.to_string() }).to_string())]).await
    }

    async fn resize(&mut self, size: PtySize) -> Result<()> {
        let pty = match self.pty {
            Some(pty) => pty,
            None => {
                let ask = Ask::get(format!("{}/processes/{}", self.place.sandbox, self.pid));
                self.place.client.ask::<ProcessInfo>(ask).await?.pty
            }
        };
        self.pty = Some(pty);
        if !pty {
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "the process has no terminal").with("pid", self.pid));
        }
        self.line.send([Message::text(json!({ "type": "resize", "rows": size.rows, "columns": size.columns }).to_string())]).await
    }
}

struct Output {
    line: Arc<Line>,
    place: Whereabouts,
    pid: u32,
    /// The offset of the next byte.
    next: u64,
    /// The last problem that was told.
    told: Option<Value>,
    ended: bool,
}

/// What a message was.
enum Heard {
    Event(ExecEvent),
    Nothing,
    Over,
}

#[async_trait]
impl ExecOutput for Output {
    async fn next(&mut self) -> Result<Option<ExecEvent>> {
        while !self.ended {
            let message = timeout(SILENCE, async { self.line.source.lock().await.next().await }).await;
            let heard = match message {
                Ok(Some(Ok(message))) => self.hear(message)?,
                Ok(Some(Err(_)) | None) | Err(_) => {
                    self.mend().await?;
                    Heard::Nothing
                }
            };
            match heard {
                Heard::Event(event) => return Ok(Some(event)),
                Heard::Nothing => {}
                Heard::Over => match self.told.take() {
                    Some(problem) => return Err(error_of(&problem)),
                    None => self.mend().await?,
                },
            }
        }
        Ok(None)
    }
}

impl Output {
    fn hear(&mut self, message: Message) -> Result<Heard> {
        match message {
            Message::Binary(mut data) if data.len() > 9 => {
                let kind = match data.get_u8() {
                    1 => OutputKind::Stdout,
                    2 => OutputKind::Stderr,
                    _ => return Err(strange("output of a kind that is not known")),
                };
                let offset = data.get_u64();
                self.next = offset.saturating_add(data.len() as u64);
                Ok(Heard::Event(ExecEvent::Output { kind, offset, data }))
            }
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(Word::Lost { bytes }) => {
                    self.next = self.next.saturating_add(bytes);
                    Ok(Heard::Event(ExecEvent::Lost { bytes }))
                }
                Ok(Word::Exited { status }) => {
                    self.ended = true;
                    Ok(Heard::Event(ExecEvent::Exited(status)))
                }
                Ok(Word::Error { problem }) => {
                    self.line.stdin().refused = Some(problem.clone());
                    self.told = Some(problem);
                    Ok(Heard::Nothing)
                }
                Ok(Word::Started { .. } | Word::Unknown) => Ok(Heard::Nothing),
                Err(error) => Err(strange("words that are not known").with_source(error)),
            },
            Message::Pong(number) => {
                if let Ok(number) = <[u8; 8]>::try_from(number.as_ref()) {
                    let mut stdin = self.line.stdin();
                    stdin.confirmed = stdin.confirmed.max(u64::from_be_bytes(number));
                }
                Ok(Heard::Nothing)
            }
            Message::Close(_) => Ok(Heard::Over),
            Message::Binary(_) | Message::Ping(_) | Message::Frame(_) => Ok(Heard::Nothing),
        }
    }

    /// Attaches again where the output was.
    async fn mend(&mut self) -> Result<()> {
        // Who sends is let go of, also who began in the moment between, and whoever would send next waits: what the old connection took now would be
        // lost without a word.
        let line = Arc::clone(&self.line);
        let mut sink = loop {
            line.cut.notify_waiters();
            if let Ok(sink) = timeout(FIRST_PAUSE, line.sink.lock()).await {
                break sink;
            }
        };
        {
            let mut stdin = line.stdin();
            stdin.doubtful |= stdin.confirmed < stdin.sent;
            if stdin.doubtful {
                return Err(self.to_go_on(in_doubt()));
            }
        }
        let begun = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.place.attached(self.pid, Some(self.next)).await {
                Ok(socket) => {
                    let (to, from) = socket.split();
                    *sink = to;
                    *line.source.lock().await = from;
                    return Ok(());
                }
                Err(error) if !is_passing(&error) || begun.elapsed() > PERSISTENCE => return Err(self.to_go_on(error)),
                Err(_) => sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// The error, and how the process can be attached to later.
    fn to_go_on(&self, error: Error) -> Error {
        let id = self.place.sandbox.rsplit('/').next().unwrap_or_default();
        let how = format!("if the process still runs: sandbar attach {id} {} --from {}", self.pid, self.next);
        let hint = error.hint().map_or(how.clone(), |hint| format!("{hint}; {how}"));
        error.with_hint(hint)
    }
}

/// Whether the same may be answered otherwise soon: nobody is there, or a proxy says so of whom it stands before.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut)
}
