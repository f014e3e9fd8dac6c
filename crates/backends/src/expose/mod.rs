//! Ports of sandboxes as ports of this host.

mod listener;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sandbar_core::{Connection, Error, ErrorKind, ExposedPort, Result};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::TcpStream,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

pub use listener::Listener;

/// Connections at the same time over one exposed port. Each holds two descriptors here and two inside.
const MAX_CONNECTIONS: usize = 512;
/// Bytes that one direction of a connection holds: below this the copy costs more system calls, above it nothing is won.
const BUFFER: usize = 64 << 10;
/// How long a listener waits when the process has no descriptor or memory left for another connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The ports that one handle exposes. Dropping it closes their listeners and connections.
#[derive(Default)]
pub(crate) struct ExposedPorts(Mutex<BTreeMap<u16, Listening>>);

struct Listening(JoinHandle<()>);

impl Listening {
    /// Ends it, and returns when its sockets are closed: an abort alone is only a request.
    async fn end(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ExposedPorts {
    /// Listens, and passes connections on, until [`close`](Self::close).
    ///
    /// # Errors
    /// `AlreadyExists` when the port is exposed already or the address is taken.
    pub(crate) async fn open<D, Dialled>(&self, port: u16, listen: SocketAddr, dial: D) -> Result<ExposedPort>
    where
        D: Fn() -> Dialled + Send + Sync + 'static,
        Dialled: Future<Output = Result<Connection>> + Send + 'static,
    {
        let taken = |what: &str| Error::new(ErrorKind::AlreadyExists, "expose port", what).with("port", port);
        if self.lock().contains_key(&port) {
            return Err(taken("the port is exposed already"));
        }
        let listener = Listener::bind(listen).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => taken("the address is taken").with("listen", listen).with_source(error),
            io::ErrorKind::AddrNotAvailable => {
                let message = "the host does not have this address";
                Error::new(ErrorKind::InvalidInput, "expose port", message).with("listen", listen).with_source(error)
            }
            _ => Error::io("expose port", "cannot listen", error).with("listen", listen),
        })?;
        let listen = listener.local_addr().map_err(|error| Error::io("expose port", "the listener has no address", error))?;
        let mut ports = self.lock();
        // Two calls for one port may have come this far; the second one's listener is closed again.
        if ports.contains_key(&port) {
            return Err(taken("the port is exposed already"));
        }
        let serving = tokio::spawn(serve(listener, Arc::new(dial), port));
        ports.insert(port, Listening(serving));
        Ok(ExposedPort { port, listen })
    }

    /// Closes the listener and its connections, and returns when they are closed.
    ///
    /// # Errors
    /// `NotFound` when the port is not exposed.
    pub(crate) async fn close(&self, port: u16) -> Result<()> {
        let listening = self.lock().remove(&port);
        match listening {
            Some(listening) => {
                listening.end().await;
                Ok(())
            }
            None => Err(Error::new(ErrorKind::NotFound, "unexpose port", "the port is not exposed").with("port", port)),
        }
    }

    /// Closes all, and returns when they are closed.
    pub(crate) async fn close_all(&self) {
        let all = std::mem::take(&mut *self.lock());
        for listening in all.into_values() {
            listening.end().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Listening>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Accepts until it is aborted; its connections end with it, being in its set.
async fn serve<D, Dialled>(listener: Listener, dial: Arc<D>, port: u16)
where
    D: Fn() -> Dialled + Send + Sync + 'static,
    Dialled: Future<Output = Result<Connection>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // At the limit the backlog of the listener holds further clients back.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((client, _)) => {
                let dial = Arc::clone(&dial);
                connections.spawn(async move {
                    pass(client, dial(), port).await;
                    drop(place);
                });
            }
            // The client went away before it was accepted.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(error) => {
                tracing::warn!(port, %error, "cannot accept a connection for now");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

/// Copies both ways; each end-of-file is passed on while the other direction goes on.
async fn pass(mut client: TcpStream, dialled: impl Future<Output = Result<Connection>>, port: u16) {
    match dialled.await {
        Ok(mut inside) => {
            let _ = client.set_nodelay(true);
            if let Err(error) = copy_bidirectional_with_sizes(&mut client, &mut inside, BUFFER, BUFFER).await {
                tracing::debug!(port, %error, "a connection broke");
                reset(&client);
            }
        }
        Err(error) => {
            tracing::debug!(port, error = %error.chain(), "a connection could not be passed on");
            reset(&client);
        }
    }
}

/// Lets the client see a reset instead of an end: nothing that it could take for a whole answer.
fn reset(client: &TcpStream) {
    let _ = rustix::net::sockopt::set_socket_linger(client, Some(Duration::ZERO));
}
