use std::os::fd::{AsFd, OwnedFd};

use rustix::net::Shutdown;
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
};

use crate::readiness;

/// A second hold of a connection by vsock, for what its kernel does not tell.
///
/// A monitor that is saved has its guest's kernel reset every connection. That wakes nobody who only reads; and of the end of what was reset that kernel
/// says nothing, so a host whose monitor goes on would wait for ever at the other end. Dropping this says it.
#[derive(Debug)]
pub(crate) struct Twin(AsyncFd<OwnedFd>);

impl Twin {
    /// Of a connection by vsock. Where there are no descriptors left it does without.
    pub(crate) fn of(stream: &UnixStream) -> Option<Self> {
        let twin = stream.as_fd().try_clone_to_owned().ok()?;
        readiness::register(twin, Interest::ERROR).ok().map(Self)
    }

    /// Waits until the connection was reset: an end in order is none.
    pub(crate) async fn reset(twin: Option<&Self>) {
        let Some(Self(twin)) = twin else { return std::future::pending().await };
        while let Ok(mut guard) = twin.ready(Interest::ERROR).await {
            if guard.ready().is_error() {
                return;
            }
            guard.clear_ready();
        }
    }
}

impl Drop for Twin {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(self.0.get_ref(), Shutdown::Both);
    }
}
