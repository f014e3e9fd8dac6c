use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{Error as Broken, Message};

use super::client::Socket;

/// Says, from either side, that no more bytes come from it.
const SHUTDOWN: &str = r#"{"type":"shutdown"}"#;
/// Bytes of a message.
const PIECE: usize = 64 << 10;

/// A connection to a port inside, over a WebSocket: an end that was said is an end, any other is a cut.
pub(super) struct Tunnel {
    socket: Socket,
    ahead: Bytes,
    read: bool,
    written: bool,
    /// Whether something that was taken has not left yet. Whoever reads sees to it: it may be what the answer waits for.
    unflushed: bool,
    /// Who waits to write, and must know when somebody else has made room.
    writer: Option<Waker>,
}

impl Tunnel {
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, ahead: Bytes::new(), read: false, written: false, unflushed: false, writer: None }
    }
}

impl Tunnel {
    /// Whether another message is taken. The socket knows one waiting task, which a reader that flushes takes the place of: it wakes the writer, who must
    /// have said that it waits.
    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let room = Pin::new(&mut self.socket).poll_ready(context).map_err(broken);
        if room.is_pending() {
            self.writer = Some(context.waker().clone());
            self.unflushed = true;
        }
        room
    }
}

fn broken(error: Broken) -> io::Error {
    match error {
        Broken::Io(error) => error,
        other => io::Error::new(io::ErrorKind::ConnectionReset, other),
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.unflushed && Pin::new(&mut self.socket).poll_flush(context).is_ready() {
            self.unflushed = false;
            if let Some(writer) = self.writer.take() {
                writer.wake();
            }
        }
        loop {
            if self.read || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if !self.ahead.is_empty() {
                let length = self.ahead.len().min(buffer.remaining());
                buffer.put_slice(&self.ahead[..length]);
                self.ahead.advance(length);
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut self.socket).poll_next(context)) {
                Some(Ok(Message::Binary(data))) => self.ahead = data,
                Some(Ok(Message::Text(text))) if text == SHUTDOWN => self.read = true,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
            }
        }
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        if self.written {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = data.len().min(PIECE);
        ready!(self.poll_room(context))?;
        Pin::new(&mut self.socket).start_send(Message::Binary(Bytes::copy_from_slice(&data[..length]))).map_err(broken)?;
        // Words of a protocol are small, and each is waited for.
        self.unflushed = Pin::new(&mut self.socket).poll_flush(context).map_err(broken)?.is_pending();
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.socket).poll_flush(context).map_err(broken);
        self.unflushed = flushed.is_pending();
        if self.unflushed {
            self.writer = Some(context.waker().clone());
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.written {
            ready!(self.poll_room(context))?;
            Pin::new(&mut self.socket).start_send(Message::text(SHUTDOWN)).map_err(broken)?;
            self.written = true;
            self.unflushed = true;
        }
        self.poll_flush(context)
    }
}
