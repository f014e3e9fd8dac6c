use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use sandbar_core::{Connection, Error, Result};
use sandbar_protocol::{Event, FrameError, FrameKind, HEADER, Header, MAX_BULK, Request, event, request::Operation};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, ReadHalf};

use super::{
    Backend, answer,
    client::{Call, Link, Patience, Writer, read_answer},
};

impl<B: Backend> Call<B> {
    /// Sends a request with a body of raw bytes, and waits until the agent says that it stands.
    ///
    /// # Errors
    /// The reader's own error as it is, or what the agent says; the agent then leaves nothing behind, since `End` was not sent.
    pub(super) async fn upload(&self, operation: Operation, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        let Link { mut reader, writer } = self.dial().await?;
        let sent = {
            let mut answer = pin!(read_answer(&mut reader));
            let sent = tokio::select! {
                biased;
                // The agent speaks before the end only to refuse.
                early = &mut answer => return match early {
                    Ok(early) => Err(self.accept(early).err().unwrap_or_else(|| self.unexpected())),
                    Err(error) => Err(self.explain(error).await),
                },
                sent = send_body(writer, operation, content) => sent,
            };
            match sent {
                Err(BodyError::Content(error)) => return Err(Error::io(self.verb, "cannot read the content to send", error)),
                Err(BodyError::Frame(error)) if matches!(error, FrameError::TooLong { .. }) => return Err(self.explain(error).await),
                // A broken pipe: the answer says why.
                Err(BodyError::Frame(_)) | Ok(_) => self.patiently(Patience::Long, answer).await?,
            }
        };
        match self.accept(sent)? {
            sandbar_protocol::reply::Answer::Done(_) => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// The body of an answer.
    pub(super) fn download(&self, link: Link) -> Download {
        let (stream, ahead) = link.reader.into_parts();
        Download { verb: self.verb, stream, ahead, state: Download::NEXT, _writer: link.writer }
    }
}

enum BodyError {
    Content(io::Error),
    Frame(FrameError),
}

impl From<FrameError> for BodyError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// Sends the request and the body, each piece read straight into the frame that it is sent in. The answer keeps the half open.
async fn send_body(
    mut writer: Writer,
    operation: Operation,
    content: &mut (dyn AsyncRead + Send + Unpin),
) -> Result<impl Send + use<>, BodyError> {
    writer.message(&Request { operation: Some(operation) }).await?;
    let mut stream = writer.into_inner();
    let mut frame = BytesMut::with_capacity(HEADER + MAX_BULK);
    loop {
        frame.clear();
        frame.put_bytes(0, HEADER);
        let length = content.read_buf(&mut (&mut frame).limit(MAX_BULK)).await.map_err(BodyError::Content)?;
        let kind = if length == 0 { FrameKind::End } else { FrameKind::Bytes };
        frame[..HEADER].copy_from_slice(&Header { kind, length }.encode());
        stream.write_all(&frame).await.map_err(FrameError::from)?;
        if length == 0 {
            stream.flush().await.map_err(FrameError::from)?;
            return Ok(stream);
        }
    }
}

/// The bytes of a file or a tar stream as they come, read straight into the reader's buffer. Ends well only if the agent said that this
/// was all.
pub(super) struct Download {
    verb: &'static str,
    stream: ReadHalf<Connection>,
    /// What was read together with the answer.
    ahead: Bytes,
    state: State,
    // Closing the writing half would look like going away.
    _writer: Writer,
}

enum State {
    /// So much of a header was read.
    Header([u8; HEADER], usize),
    /// So much of a frame of bytes is still to come.
    Body(usize),
    /// So much of a message of this length was read.
    Message(Vec<u8>, usize),
    Ended,
    /// An error was told; what comes after it is no content.
    Failed,
}

impl Download {
    const NEXT: State = State::Header([0; HEADER], 0);

    /// Reads at most `limit` bytes, at least one.
    fn poll_some(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>, limit: usize) -> Poll<io::Result<usize>> {
        if !self.ahead.is_empty() {
            let length = self.ahead.len().min(limit).min(buffer.remaining());
            buffer.put_slice(&self.ahead.split_to(length));
            return Poll::Ready(Ok(length));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut (&mut self.stream).take(limit as u64)).poll_read(context, buffer))?;
        match buffer.filled().len() - before {
            0 => Poll::Ready(Err(FrameError::Cut.into())),
            length => Poll::Ready(Ok(length)),
        }
    }

    /// Reads on until there is a body to be read, or none will come.
    fn poll_headers(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match std::mem::replace(&mut self.state, State::Failed) {
                State::Header(header, HEADER) => {
                    let Header { kind, length } = Header::decode(header)?;
                    self.state = match kind {
                        FrameKind::Bytes if length == 0 => Self::NEXT,
                        FrameKind::Bytes => State::Body(length),
                        FrameKind::Message => State::Message(Vec::new(), length),
                        FrameKind::End => State::Ended,
                        FrameKind::Stdout | FrameKind::Stderr => return Poll::Ready(Err(FrameError::UnexpectedKind(kind).into())),
                    };
                }
                State::Header(mut header, filled) => {
                    let mut buffer = ReadBuf::new(&mut header[filled..]);
                    let read = self.poll_some(context, &mut buffer, HEADER - filled);
                    let now = filled + buffer.filled().len();
                    self.state = State::Header(header, now);
                    ready!(read)?;
                }
                State::Message(text, length) if text.len() == length => return Poll::Ready(Err(self.failure(&text))),
                State::Message(mut text, length) => {
                    let mut piece = [0; 4096];
                    let mut buffer = ReadBuf::new(&mut piece);
                    let read = self.poll_some(context, &mut buffer, length - text.len());
                    text.put_slice(buffer.filled());
                    self.state = State::Message(text, length);
                    ready!(read)?;
                }
                State::Failed => return Poll::Ready(Err(FrameError::Cut.into())),
                state @ (State::Body(_) | State::Ended) => {
                    self.state = state;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// The only message in the middle of a body is that it failed.
    fn failure(&self, text: &[u8]) -> io::Error {
        match Event::decode(text).map(|event| event.what) {
            Ok(Some(event::What::Failure(failure))) => io::Error::other(answer::failure(self.verb, &failure)),
            Ok(_) => FrameError::UnexpectedKind(FrameKind::Message).into(),
            Err(error) => FrameError::Malformed(error.to_string()).into(),
        }
    }
}

impl AsyncRead for Download {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_headers(context))?;
        let State::Body(left) = self.state else { return Poll::Ready(Ok(())) };
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let read = ready!(self.poll_some(context, buffer, left))?;
        self.state = if read == left { Self::NEXT } else { State::Body(left - read) };
        Poll::Ready(Ok(()))
    }
}
