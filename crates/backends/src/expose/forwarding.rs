use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use sandbar_core::{Connection, Result};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

/// Bytes that one direction of a connection holds: below this the copy costs more system calls, above it nothing is won.
const BUFFER: usize = 64 << 10;
/// How long a listener waits when the process has no descriptor or memory left for another connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// A listener on this host that passes each connection on. Dropping it closes it and its connections, a moment later.
pub struct Forwarding {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Forwarding {
    /// Listens, and passes each connection to what `dial` gives. `room` is for how many there may be at once; more wait in the kernel's queue.
    ///
    /// # Errors
    /// Of the kernel: `AddrInUse`, `AddrNotAvailable` …
    pub async fn bind<D, Dialled>(listen: SocketAddr, room: Arc<Semaphore>, dial: D) -> io::Result<Self>
    where
        D: Fn() -> Dialled + Send + Sync + 'static,
        Dialled: Future<Output = Result<Connection>> + Send + 'static,
    {
        let listener = Listener::bind(listen).await?;
        let address = listener.0.local_addr()?;
        Ok(Self { address, task: tokio::spawn(serve(listener, room, dial)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes it: when this returns, nobody can connect any more, and every connection is closed. An abort alone is only a request.
    pub async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A listener that listens no longer when it is dropped, whoever else has a descriptor of it: a child that this process starts at the
/// same time has a copy until it executes, and would hold the queue open.
struct Listener(TcpListener);

impl Listener {
    async fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Read);
    }
}

/// Accepts until it is aborted; its connections end with it, being in its set.
async fn serve<D, Dialled>(listener: Listener, room: Arc<Semaphore>, dial: D)
where
    D: Fn() -> Dialled,
    Dialled: Future<Output = Result<Connection>> + Send + 'static,
{
    let listen = listener.0.local_addr().ok();
    let mut connections = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.0.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((client, _)) => {
                let dialled = dial();
                connections.spawn(async move {
                    pass(client, dialled).await;
                    drop(place);
                });
            }
            // The client went away before it was accepted.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(error) => {
                tracing::warn!(?listen, %error, "cannot accept a connection for now");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

/// Copies both ways; each end-of-file is passed on while the other direction goes on.
async fn pass(mut client: TcpStream, dialled: impl Future<Output = Result<Connection>>) {
    let broken = match dialled.await {
        Ok(mut inside) => {
            // Otherwise the kernel holds small answers back for the sake of fuller packets.
            let _ = client.set_nodelay(true);
            let copied = copy_bidirectional_with_sizes(&mut client, &mut inside, BUFFER, BUFFER).await;
            copied.err().map(|error| format!("a connection broke: {error}"))
        }
        Err(error) => Some(format!("a connection could not be passed on: {}", error.chain())),
    };
    if let Some(broken) = broken {
        tracing::debug!(listen = ?client.local_addr().ok(), "{broken}");
        // The client sees a reset instead of an end: nothing that it could take for a whole answer.
        let _ = rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO));
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_copy_of_the_descriptor_holds_nothing_open() {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.0.local_addr().unwrap();
        let copy = listener.0.as_fd().try_clone_to_owned().unwrap();
        drop(listener);
        assert!(TcpStream::connect(address).await.is_err());
        Listener::bind(address).await.unwrap();
        drop(copy);
    }
}
