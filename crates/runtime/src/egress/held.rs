use std::{
    any::Any,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sandbar_core::{Connection, ReadAhead};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};

/// A connection of which several have hold: it is closed when the last lets go. So whoever speaks on it may fail, and it can be reset before it is closed.
#[derive(Clone)]
pub(crate) struct Held(Arc<Mutex<Inner>>);

struct Inner {
    connection: Connection,
    /// Whether the end was said from here: then the other side's end looks like its going.
    has_said_end: bool,
}

impl Held {
    pub(crate) fn new(connection: Connection) -> Self {
        Self(Arc::new(Mutex::new(Inner { connection, has_said_end: false })))
    }

    /// Whether the other side has closed it altogether, and has not only said its end; where that can be seen, which it cannot after an end from here.
    pub(crate) fn is_closed(&self) -> bool {
        let inner = self.lock();
        !inner.has_said_end && is_closed(&inner.connection)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_closed(connection: &Connection) -> bool {
    let any: &dyn Any = &**connection;
    if let Some(socket) = any.downcast_ref::<UnixStream>() {
        // What is asked for is nothing: that it is hung up is told always (poll(2)).
        let mut asked = [PollFd::new(socket, PollFlags::empty())];
        return poll(&mut asked, Some(&Timespec::default())).is_ok_and(|_| asked[0].revents().contains(PollFlags::HUP));
    }
    any.downcast_ref::<ReadAhead>().is_some_and(|ahead| is_closed(ahead.stream()))
        || any.downcast_ref::<Held>().is_some_and(Held::is_closed)
}

impl AsyncRead for Held {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().connection).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.lock().connection).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().connection).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        inner.has_said_end = true;
        Pin::new(&mut inner.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn who_has_closed_is_told_from_who_has_said_the_end() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let held = Held::new(Box::new(ReadAhead::new(Bytes::from_static(b"ahead"), Box::new(near))));
        let held = Held::new(Box::new(ReadAhead::new(Bytes::new(), Box::new(held))));
        assert!(!held.is_closed());
        far.shutdown().await.unwrap();
        assert!(!held.is_closed());
        drop(far);
        assert!(held.is_closed());
    }

    #[tokio::test]
    async fn two_ends_are_no_close() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut held = Held::new(Box::new(near));
        held.shutdown().await.unwrap();
        far.shutdown().await.unwrap();
        assert!(!held.is_closed());
    }
}
