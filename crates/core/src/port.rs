use std::{
    any::Any,
    collections::BTreeSet,
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::{Buf, Bytes};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::Result;

/// Bytes both ways. Shutting down the writing side tells the other end-of-file and leaves the reading side open.
///
/// It may be [`Any`] type, so that whoever passes on many bytes can look whether it is a plain socket, which the kernel passes on by page.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + Any {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + Any> ByteStream for T {}

/// A boxed [`ByteStream`].
pub type Connection = Box<dyn ByteStream>;

/// A stream of which some bytes were read already, together with an answer before them.
pub struct ReadAhead {
    ahead: Bytes,
    stream: Connection,
}

impl ReadAhead {
    /// Reads these bytes first.
    pub fn new(ahead: Bytes, stream: Connection) -> Self {
        Self { ahead, stream }
    }

    /// The stream behind the bytes.
    pub const fn stream(&self) -> &Connection {
        &self.stream
    }

    /// What is left of the bytes, and the stream behind them.
    pub fn into_parts(self) -> (Bytes, Connection) {
        (self.ahead, self.stream)
    }
}

impl fmt::Debug for ReadAhead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadAhead").field("ahead", &self.ahead.len()).finish_non_exhaustive()
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = self.ahead.len().min(buffer.remaining());
        buffer.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The ports that something inside listens on, as they change.
#[async_trait]
pub trait PortStream: Send {
    /// All of them: at once, then whenever they have changed, within a second. What opens and closes in between is not told. May be dropped while it waits.
    ///
    /// # Errors
    /// `Unavailable` when the sandbox is gone, or its agent lets go of its connections to be saved: what was told holds until it is asked again.
    async fn next(&mut self) -> Result<BTreeSet<u16>>;
}

/// A port of the sandbox that listens on the host.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExposedPort {
    /// The port inside.
    pub port: u16,
    /// Where the host listens.
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub listen: SocketAddr,
}
