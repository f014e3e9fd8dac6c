//! A command over a WebSocket. What is said there is told at [`exec`], for clients too.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::ws::{Message, WebSocket},
    response::Response,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt, StreamExt, stream::SplitSink};
use sandbar_core::{Error, ErrorKind, ExecEvent, ExecInput, ExecOutput, ExecStream, OutputKind, PtySize, Result, Signal};
use sandbar_runtime::Sandbox;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use utoipa::IntoParams;

use crate::{
    caller::{May, Use},
    exec::Command,
    extract::{Path, Query, Upgrade},
    farewell::{LAST_WORDS, until_closed},
    metrics::Attended,
    problem::{Answer, Problem},
};

/// How long a client may take to say what to execute.
const FIRST_WORDS: Duration = Duration::from_secs(30);
/// Between pings. A client of which nothing was heard between two of them, not even the answer to the first, is gone.
const PULSE: Duration = Duration::from_secs(30);

/// What a client may say after the start.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Word {
    CloseStdin,
    Signal { signal: String },
    Resize { rows: u16, columns: u16 },
}

/// Where to begin.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attachment {
    /// The offset of the first byte of output that is wanted; everything that is kept if it is left out.
    from: Option<u64>,
}

/// Run a command, streamed over a WebSocket
///
/// Messages of text are JSON, messages of bytes are a stream. The client's first message is a command as in `POST …/exec`, within 30 seconds. Then it may say:
///
/// - bytes: standard input, where the command has `stdin` or `pty`; an empty message says nothing
/// - `{"type":"close_stdin"}`: the end of standard input
/// - `{"type":"signal","signal":"TERM"}`: a signal to the process group
/// - `{"type":"resize","rows":24,"columns":80}`: the size of the terminal
///
/// The server says:
///
/// - `{"type":"started","pid":7}`: the first message
/// - bytes: output. The first is 1 (standard output, or the terminal) or 2 (standard error); the next eight are the offset of what follows, over both streams, the highest first; then comes what was written
/// - `{"type":"lost","bytes":5}`: that much output was dropped here, since nobody was attached and the ring was full
/// - `{"type":"exited","exit_code":0,"status":{…}}`: the last message, with `exit_code` and `status` as in the answer to `POST …/exec`
/// - `{"type":"error","problem":{…}}`: a message could not be followed, and everything goes on; before `started`, or where the connection to the sandbox is lost, the last message
///
/// After the last message the server closes. A client's message has 1 MiB at most. A client that does not read holds the command back, as with a pipe, and nobody else; one that does not answer a ping within half a minute is given up.
///
/// Where a client goes away, the command runs on, unless it has `kill_on_disconnect`, and its process can be attached to.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/exec", tag = "commands", operation_id = "exec_stream", params(("id" = String, Path)),
    responses((status = 101, description = "The connection is a WebSocket now"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn exec(app: May<Use>, Path(id): Path<String>, Upgrade(upgrade): Upgrade) -> Answer<Response> {
    let sandbox = app.runtime.sandbox(&id).await?;
    let metrics = Arc::clone(&app.metrics);
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        match begin(&mut socket, &sandbox).await {
            Ok(stream) => drive(socket, stream, metrics.attended()).await,
            Err(error) => refuse(socket, error).await,
        }
    }))
}

/// Attach to a process that exec started, over a WebSocket
///
/// The messages are those of `exec_stream`, without the first one of the client: `started` comes at once, then the output that is kept, from `from` on.
#[utoipa::path(get, path = "/v1/sandboxes/{id}/processes/{pid}/attach", tag = "commands", operation_id = "attach",
    params(("id" = String, Path), ("pid" = u32, Path), Attachment),
    responses((status = 101, description = "The connection is a WebSocket now"), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub(crate) async fn attach(
    app: May<Use>,
    Path((id, pid)): Path<(String, u32)>,
    Query(attachment): Query<Attachment>,
    Upgrade(upgrade): Upgrade,
) -> Answer<Response> {
    let stream = app.runtime.sandbox(&id).await?.reattach(pid, attachment.from).await?;
    let metrics = Arc::clone(&app.metrics);
    Ok(upgrade.on_upgrade(move |socket| async move { drive(socket, stream, metrics.attended()).await }))
}

async fn begin(socket: &mut WebSocket, sandbox: &Sandbox) -> Result<ExecStream> {
    let bad = |message: &str| Error::new(ErrorKind::InvalidInput, "exec", message);
    let first = timeout(FIRST_WORDS, socket.recv()).await.map_err(|_| Error::new(ErrorKind::TimedOut, "exec", "no command came"))?;
    let Some(Ok(Message::Text(text))) = first else { return Err(bad("the first message says what to execute, as JSON")) };
    let command: Command = serde_json::from_str(&text).map_err(|error| bad("the first message is no command").with_source(error))?;
    sandbox.exec_stream(command.request(true)?.0).await
}

async fn refuse(mut socket: WebSocket, error: Error) {
    // Nobody is left to hear it, or it was heard.
    let _ = socket.send(text(&json!({ "type": "error", "problem": Problem::from(error) }))).await;
    let _ = socket.send(Message::Close(None)).await;
    until_closed(&mut socket).await;
}

/// Passes everything on until the command has ended or the client is gone.
async fn drive(socket: WebSocket, stream: ExecStream, attended: Attended) {
    let (mut sink, mut source) = socket.split();
    let ExecStream { pid, mut input, mut output } = stream;
    let heard = AtomicBool::new(true);
    let (tell, told) = tokio::sync::mpsc::channel::<Value>(16);
    let said = {
        let listen = async {
            while let Some(Ok(message)) = source.next().await {
                heard.store(true, Ordering::Relaxed);
                if let Err(error) = follow(message, input.as_mut(), &heard).await
                    && tell.send(json!({ "type": "error", "problem": Problem::from(error) })).await.is_err()
                {
                    return;
                }
            }
        };
        tokio::pin!(listen);
        let said = tokio::select! {
            () = &mut listen => return,
            said = say(&mut sink, pid, output.as_mut(), told, &heard) => said,
        };
        if said.is_err() {
            // Nobody hears any more; what was said before that is still done.
            let _ = timeout(LAST_WORDS, listen).await;
        }
        said
    };
    if said.is_ok() {
        // Who has heard the end finds it counted.
        drop(attended);
        drop(sink.send(Message::Close(None)).await);
        until_closed(&mut source).await;
    }
}

/// Says everything that the command says. Ends with it, or with an error when the client is gone.
async fn say(
    sink: &mut SplitSink<WebSocket, Message>,
    pid: u32,
    output: &mut dyn ExecOutput,
    mut told: tokio::sync::mpsc::Receiver<Value>,
    heard: &AtomicBool,
) -> Result<(), axum::Error> {
    sink.send(text(&json!({ "type": "started", "pid": pid }))).await?;
    let mut pulse = interval_at(Instant::now() + PULSE, PULSE);
    // However long output has kept it from being looked at, an answer has as long as ever.
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ended = false;
    loop {
        // Nothing comes after the end.
        while !ended && let Ok(words) = told.try_recv() {
            sink.feed(text(&words)).await?;
        }
        // What is there already goes out together.
        let mut next = output.next();
        let event = match (&mut next).now_or_never() {
            Some(event) => event,
            None => {
                sink.flush().await?;
                tokio::select! {
                    event = &mut next => event,
                    Some(words) = told.recv(), if !ended => {
                        sink.feed(text(&words)).await?;
                        continue;
                    }
                    _ = pulse.tick() => {
                        if !heard.swap(false, Ordering::Relaxed) {
                            return Err(axum::Error::new(Error::new(ErrorKind::TimedOut, "exec", "the client does not answer")));
                        }
                        sink.feed(Message::Ping(Bytes::new())).await?;
                        continue;
                    }
                }
            }
        };
        let message = match event {
            Ok(Some(ExecEvent::Output { kind, offset, data })) => piece(kind, offset, &data),
            Ok(Some(ExecEvent::Lost { bytes })) => text(&json!({ "type": "lost", "bytes": bytes })),
            Ok(Some(ExecEvent::Exited(status))) => {
                ended = true;
                text(&json!({ "type": "exited", "exit_code": status.shell_code(), "status": status }))
            }
            Ok(None) => return sink.flush().await,
            Err(error) => return sink.send(text(&json!({ "type": "error", "problem": Problem::from(error) }))).await,
        };
        sink.feed(message).await?;
    }
}

/// Does what a client says. `heard` stays set while the command does not read: then nothing that the client says can be heard.
async fn follow(message: Message, input: &mut dyn ExecInput, heard: &AtomicBool) -> Result<()> {
    match message {
        Message::Binary(data) if !data.is_empty() => {
            let written = input.write(data);
            tokio::pin!(written);
            loop {
                match timeout(PULSE / 2, &mut written).await {
                    Ok(done) => return done,
                    Err(_) => heard.store(true, Ordering::Relaxed),
                }
            }
        }
        Message::Text(words) => {
            let word = serde_json::from_str(&words)
                .map_err(|error| Error::new(ErrorKind::InvalidInput, "exec", "not a message that is known").with_source(error))?;
            match word {
                Word::CloseStdin => input.close().await,
                Word::Signal { signal } => input.signal(signal.parse::<Signal>()?).await,
                Word::Resize { rows, columns } => input.resize(PtySize { rows, columns }).await,
            }
        }
        _ => Ok(()),
    }
}

fn piece(kind: OutputKind, offset: u64, data: &Bytes) -> Message {
    let mut message = BytesMut::with_capacity(9 + data.len());
    message.put_u8(match kind {
        OutputKind::Stdout => 1,
        OutputKind::Stderr => 2,
    });
    message.put_u64(offset);
    message.extend_from_slice(data);
    Message::Binary(message.freeze())
}

fn text(value: &Value) -> Message {
    Message::Text(value.to_string().into())
}
