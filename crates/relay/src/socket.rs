use std::{io, os::fd::AsFd};

use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

/// A socket of the event loop, for calls that the loop does not know.
pub trait Socket: AsFd + Sync {
    /// Waits until it may be ready.
    ///
    /// # Errors
    /// Of the event loop.
    fn ready(&self, interest: Interest) -> impl Future<Output = io::Result<()>> + Send;

    /// Attempts something; a failure with `WouldBlock` says that it is not ready after all.
    ///
    /// # Errors
    /// Those of the attempt, and `WouldBlock` where it was known not to be ready.
    fn attempt<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T>;
}

impl Socket for UnixStream {
    async fn ready(&self, interest: Interest) -> io::Result<()> {
        Self::ready(self, interest).await.map(drop)
    }

    fn attempt<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.try_io(interest, call)
    }
}

impl Socket for TcpStream {
    async fn ready(&self, interest: Interest) -> io::Result<()> {
        Self::ready(self, interest).await.map(drop)
    }

    fn attempt<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.try_io(interest, call)
    }
}

/// Attempts something until it does not fail for want of readiness.
pub(crate) async fn perform<T>(socket: &impl Socket, interest: Interest, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        socket.ready(interest).await?;
        match socket.attempt(interest, &mut call) {
            Err(error) if is_passing(&error) => {}
            other => return other,
        }
    }
}

/// Whether it may be attempted again, when the socket is ready.
pub(crate) fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
