//! Ports of sandboxes as ports of this host.

mod forwarding;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_core::{Connection, Error, ErrorKind, ExposedPort, Result};
use tokio::sync::Semaphore;

pub use forwarding::Forwarding;

/// Connections at the same time over one port that a handle exposes. Each holds two descriptors here and two inside.
const MAX_CONNECTIONS: usize = 512;

/// The ports that one handle exposes. Dropping it closes their listeners and connections.
#[derive(Default)]
pub(crate) struct ExposedPorts(Mutex<BTreeMap<u16, Forwarding>>);

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
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let forwarding = Forwarding::bind(listen, room, dial).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => taken("the address is taken").with("listen", listen).with_source(error),
            io::ErrorKind::AddrNotAvailable => {
                let message = "the host does not have this address";
                Error::new(ErrorKind::InvalidInput, "expose port", message).with("listen", listen).with_source(error)
            }
            _ => Error::io("expose port", "cannot listen", error).with("listen", listen),
        })?;
        let listen = forwarding.address();
        let mut ports = self.lock();
        // Two calls for one port may have come this far; the second one's listener is closed again.
        if ports.contains_key(&port) {
            return Err(taken("the port is exposed already"));
        }
        ports.insert(port, forwarding);
        Ok(ExposedPort { port, listen })
    }

    /// Closes the listener and its connections, and returns when they are closed.
    ///
    /// # Errors
    /// `NotFound` when the port is not exposed.
    pub(crate) async fn close(&self, port: u16) -> Result<()> {
        let forwarding = self.lock().remove(&port);
        match forwarding {
            Some(forwarding) => {
                forwarding.close().await;
                Ok(())
            }
            None => Err(Error::new(ErrorKind::NotFound, "unexpose port", "the port is not exposed").with("port", port)),
        }
    }

    /// Closes all, and returns when they are closed.
    pub(crate) async fn close_all(&self) {
        let all = std::mem::take(&mut *self.lock());
        for forwarding in all.into_values() {
            forwarding.close().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, Forwarding>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
