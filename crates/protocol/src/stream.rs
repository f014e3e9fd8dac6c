use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{Frame, FrameError, FrameKind, HEADER, Header, PREAMBLE, Preamble, VERSION, encode_frame, encode_message};

/// Bytes that are read beyond what is wanted, where little is on its way, and where much is: small frames come many at a read then.
const AHEAD: usize = 4 << 10;
const FAR_AHEAD: usize = 32 << 10;

/// Reads frames. Cancel-safe: a `next` that is dropped loses nothing.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: R,
    buffer: BytesMut,
    ahead: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self { inner, buffer: BytesMut::new(), ahead: AHEAD }
    }

    /// Reads the other side's preamble.
    ///
    /// # Errors
    /// `BadMagic`, `Version`, or `Cut`.
    pub async fn preamble(&mut self) -> Result<Preamble, FrameError> {
        if !self.fill(PREAMBLE).await? {
            return Err(FrameError::Cut);
        }
        let mut bytes = [0; PREAMBLE];
        bytes.copy_from_slice(&self.buffer.split_to(PREAMBLE));
        Preamble::decode(bytes)
    }

    /// The next frame; `None` when the connection ended between frames.
    ///
    /// # Errors
    /// As [`Header::decode`]; `Cut` when the connection ends within a frame.
    pub async fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if !self.fill(HEADER).await? {
            return if self.buffer.is_empty() { Ok(None) } else { Err(FrameError::Cut) };
        }
        let mut header = [0; HEADER];
        header.copy_from_slice(&self.buffer[..HEADER]);
        let header = Header::decode(header)?;
        if !self.fill(HEADER + header.length).await? {
            return Err(FrameError::Cut);
        }
        let _ = self.buffer.split_to(HEADER);
        Ok(Some(Frame { kind: header.kind, payload: self.buffer.split_to(header.length).freeze() }))
    }

    /// The next frame as a message.
    ///
    /// # Errors
    /// `Cut` when there is none; those of [`Frame::message`].
    pub async fn message<M: Message + Default>(&mut self) -> Result<M, FrameError> {
        self.next().await?.ok_or(FrameError::Cut)?.message()
    }

    /// Gives back the stream and the bytes that were read ahead of it.
    pub fn into_parts(self) -> (R, Bytes) {
        (self.inner, self.buffer.freeze())
    }

    async fn fill(&mut self, wanted: usize) -> Result<bool, FrameError> {
        while self.buffer.len() < wanted {
            self.buffer.reserve((wanted - self.buffer.len()).max(self.ahead));
            let room = self.buffer.capacity() - self.buffer.len();
            match self.inner.read_buf(&mut self.buffer).await? {
                0 => return Ok(false),
                // What filled the room has more behind it.
                read if read == room => self.ahead = (2 * self.ahead).min(FAR_AHEAD),
                read if read < AHEAD => self.ahead = AHEAD,
                _ => {}
            }
        }
        Ok(true)
    }
}

/// Writes frames, each with one write call where the socket takes it. Not cancel-safe.
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: W,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// Writes to `inner`. The preamble goes out with the first frame.
    pub fn new(inner: W) -> Self {
        Self { inner, buffer: BytesMut::from(VERSION.encode().as_slice()) }
    }

    /// Writes a message.
    ///
    /// # Errors
    /// `TooLong`, or the connection's error.
    pub async fn message(&mut self, message: &impl Message) -> Result<(), FrameError> {
        encode_message(&mut self.buffer, message)?;
        self.flush().await
    }

    /// Writes raw bytes, in as many frames as they need.
    ///
    /// # Errors
    /// The connection's error.
    pub async fn bytes(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), FrameError> {
        for chunk in payload.chunks(crate::MAX_BULK) {
            encode_frame(&mut self.buffer, kind, chunk)?;
            self.flush().await?;
        }
        Ok(())
    }

    /// Writes one frame of raw bytes, which may be empty.
    ///
    /// # Errors
    /// `TooLong`, or the connection's error.
    pub async fn frame(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), FrameError> {
        encode_frame(&mut self.buffer, kind, payload)?;
        self.flush().await
    }

    /// Writes the end of raw bytes.
    ///
    /// # Errors
    /// The connection's error.
    pub async fn end(&mut self) -> Result<(), FrameError> {
        encode_frame(&mut self.buffer, FrameKind::End, &[])?;
        self.flush().await
    }

    /// Gives back the stream. Everything was written.
    pub fn into_inner(self) -> W {
        self.inner
    }

    async fn flush(&mut self) -> Result<(), FrameError> {
        self.inner.write_all_buf(&mut self.buffer).await?;
        // A large frame's buffer is not kept for the small ones to come.
        if self.buffer.capacity() > 64 << 10 {
            self.buffer = BytesMut::new();
        }
        self.inner.flush().await?;
        Ok(())
    }
}
