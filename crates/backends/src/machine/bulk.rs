use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use sandbar_core::{Error, Result};
use sandbar_protocol::{Event, Frame, FrameError, FrameKind, MAX_BULK, event, request::Operation};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::{
    Backend, answer,
    client::{Call, Link, Patience, Reader, Writer, read_answer},
};

impl<B: Backend> Call<B> {
    /// Sends a request with a body of raw bytes, and waits until the agent says that it stands.
    ///
    /// # Errors
    /// The reader's own error as it is, or what the agent says; the agent then leaves nothing behind, since `End` was not sent.
    pub(super) async fn upload(&self, operation: Operation, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        let Link { mut reader, mut writer } = self.dial().await?;
        let sent = {
            let mut answer = pin!(read_answer(&mut reader));
            let sent = tokio::select! {
                biased;
                // The agent speaks before the end only to refuse.
                early = &mut answer => return match early {
                    Ok(early) => Err(self.accept(early).err().unwrap_or_else(|| self.unexpected())),
                    Err(error) => Err(self.explain(error).await),
                },
                sent = send_body(&mut writer, operation, content) => sent,
            };
            match sent {
                Err(BodyError::Content(error)) => return Err(Error::io(self.verb, "cannot read the content to send", error)),
                Err(BodyError::Frame(error)) if matches!(error, FrameError::TooLong { .. }) => return Err(self.explain(error).await),
                // A broken pipe: the answer says why.
                Err(BodyError::Frame(_)) | Ok(()) => self.patiently(Patience::Long, answer).await?,
            }
        };
        match self.accept(sent)? {
            sandbar_protocol::reply::Answer::Done(_) => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    /// The body of an answer.
    pub(super) fn download(&self, link: Link) -> Download {
        Download { verb: self.verb, reader: link.reader, rest: Bytes::new(), ended: false, _writer: link.writer }
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

async fn send_body(writer: &mut Writer, operation: Operation, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<(), BodyError> {
    writer.message(&sandbar_protocol::Request { operation: Some(operation) }).await?;
    let mut buffer = BytesMut::with_capacity(MAX_BULK);
    loop {
        buffer.clear();
        if content.read_buf(&mut buffer).await.map_err(BodyError::Content)? == 0 {
            return Ok(writer.end().await?);
        }
        writer.bytes(FrameKind::Bytes, &buffer).await?;
    }
}

/// The bytes of a file or a tar stream as they come. Ends well only if the agent said that this was all.
pub(super) struct Download {
    verb: &'static str,
    reader: Reader,
    rest: Bytes,
    ended: bool,
    // Shutting the writing half would look like going away.
    _writer: Writer,
}

impl Download {
    /// Takes a frame in; an error that the agent tells is the stream's error.
    fn accept(&mut self, frame: Option<Frame>) -> io::Result<()> {
        let frame = frame.ok_or(FrameError::Cut)?;
        match frame.kind {
            FrameKind::Bytes => self.rest = frame.payload,
            FrameKind::End => self.ended = true,
            FrameKind::Message => match frame.message::<Event>()?.what {
                Some(event::What::Failure(failure)) => return Err(io::Error::other(answer::failure(self.verb, &failure))),
                _ => return Err(FrameError::UnexpectedKind(FrameKind::Message).into()),
            },
            kind => return Err(FrameError::UnexpectedKind(kind).into()),
        }
        Ok(())
    }
}

impl AsyncRead for Download {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.rest.is_empty() && !self.ended {
            // A `next` that is dropped loses nothing, so it can be made anew at every poll.
            let polled = pin!(self.reader.next()).poll(context);
            let frame = ready!(polled)?;
            self.accept(frame)?;
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}
