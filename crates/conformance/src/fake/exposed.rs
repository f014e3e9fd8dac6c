use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_core::{Error, ErrorKind, ExposedPort, Result};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};

use super::machine::Machine;

/// The ports of a fake sandbox that listen on the host.
#[derive(Default)]
pub(super) struct Exposed(Mutex<HashMap<u16, JoinHandle<()>>>);

impl Exposed {
    fn table(&self) -> MutexGuard<'_, HashMap<u16, JoinHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn add(&self, machine: &Arc<Machine>, port: u16, listen: SocketAddr) -> Result<ExposedPort> {
        let taken = |message| Error::new(ErrorKind::AlreadyExists, "expose", message).with("port", port).with("listen", listen);
        if self.table().contains_key(&port) {
            return Err(taken("the port is exposed already"));
        }
        let listener = TcpListener::bind(listen).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => taken("the address is taken"),
            _ => Error::io("expose", "cannot listen", error),
        })?;
        let listen = listener.local_addr().map_err(|error| Error::io("expose", "cannot listen", error))?;
        let task = tokio::spawn(serve(Listening(listener), Arc::clone(machine), port));
        self.table().insert(port, task);
        Ok(ExposedPort { port, listen })
    }

    /// The listener is closed when this returns.
    pub(super) async fn remove(&self, port: u16) -> Result<()> {
        let handle = self.table().remove(&port);
        let handle = handle.ok_or_else(|| Error::new(ErrorKind::NotFound, "unexpose", "the port is not exposed").with("port", port))?;
        end(handle).await;
        Ok(())
    }

    pub(super) async fn end_all(&self) {
        let handles: Vec<_> = self.table().drain().map(|(_, handle)| handle).collect();
        for handle in handles {
            end(handle).await;
        }
    }
}

/// Ends a listener: what was aborted holds its socket until it has been dropped.
async fn end(handle: JoinHandle<()>) {
    handle.abort();
    let _ = handle.await;
}

/// Listens no longer when it is dropped, even while a child that has not executed yet has a copy of the descriptor.
struct Listening(TcpListener);

impl Drop for Listening {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Read);
    }
}

/// Ends, with all its connections, when it is aborted.
async fn serve(listener: Listening, machine: Arc<Machine>, port: u16) {
    let mut clients = JoinSet::new();
    while let Ok((client, _)) = listener.0.accept().await {
        clients.spawn(pass(client, Arc::clone(&machine), port));
    }
}

async fn pass(mut client: TcpStream, machine: Arc<Machine>, port: u16) {
    if let Ok(mut inside) = machine.connect(port) {
        let _ = copy_bidirectional(&mut client, &mut inside).await;
    }
}
