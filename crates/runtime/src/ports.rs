//! Ports of sandboxes on listeners of the host.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sandbar_core::{Connection, Context, Result, SandboxId};
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::TcpStream,
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
};

use crate::{
    Sandbox,
    runtime::{Runtime, WeakRuntime, gone},
};

/// Connections at the same time over all listeners of a process; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 4096;
/// Bytes that one direction of a connection holds: 64 KiB copies as fast as larger ones.
const BUFFER: usize = 64 << 10;
/// How long a listener waits when there is no descriptor or memory for another connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Passes connections on to the inside. Dropping it closes it and its connections, a moment later.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    /// Listens at `address` and passes each connection to `port` inside.
    ///
    /// # Errors
    /// `AlreadyExists` when the address is taken.
    pub(crate) async fn bind(sandbox: &Sandbox, port: u16, address: SocketAddr, connections: Arc<Semaphore>) -> Result<Self> {
        let listener = sandbar_backends::Listener::bind(address).await.map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => io::Error::new(io::ErrorKind::AlreadyExists, error),
            _ => error,
        });
        let listener = listener.context("expose", || format!("cannot listen on {address}"))?;
        let address = listener.local_addr().context("expose", || "the listener has no address".to_owned())?;
        let task = tokio::spawn(serve(listener, Inside::of(sandbox), port, connections));
        Ok(Self { address, task })
    }

    /// Closes it: when this returns, nobody can connect any more, and every connection is closed.
    pub(crate) async fn close(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// The room for connections that the listeners of one process share.
    pub(crate) fn room() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(MOST_CONNECTIONS))
    }
}

/// A sandbox that its listeners do not keep: the runtime keeps the listeners.
#[derive(Clone)]
struct Inside {
    runtime: WeakRuntime,
    id: SandboxId,
}

impl Inside {
    fn of(sandbox: &Sandbox) -> Self {
        Self { runtime: sandbox.runtime().downgrade(), id: sandbox.id().clone() }
    }

    async fn connect(&self, port: u16) -> Result<Connection> {
        let runtime: Runtime = self.runtime.upgrade().ok_or_else(|| gone(&self.id))?;
        let row = runtime.row(&self.id)?;
        Sandbox::of(runtime, &row).dial_port(port).await
    }
}

async fn serve(listener: sandbar_backends::Listener, inside: Inside, port: u16, connections: Arc<Semaphore>) {
    let mut open = JoinSet::new();
    loop {
        let Ok(room) = Arc::clone(&connections).acquire_owned().await else { return };
        let client = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
        };
        match client {
            Ok((client, _)) => {
                let inside = inside.clone();
                open.spawn(async move {
                    // Either side may break off; there is nobody to tell but the other side, which sees it by the closing.
                    if let Err(error) = pass(client, &inside, port).await {
                        tracing::debug!(id = %inside.id, port, error = error.chain(), "a connection ended early");
                    }
                    drop(room);
                });
            }
            Err(error) => {
                tracing::warn!(id = %inside.id, port, %error, "cannot accept a connection");
                tokio::time::sleep(EXHAUSTED).await;
            }
        }
    }
}

async fn pass(mut client: TcpStream, inside: &Inside, port: u16) -> Result<()> {
    let mut inside = inside.connect(port).await?;
    // Otherwise the kernel holds small answers back for the sake of fuller packets.
    let _ = client.set_nodelay(true);
    let copied = copy_bidirectional_with_sizes(&mut client, &mut inside, BUFFER, BUFFER).await;
    copied.map(|_| ()).context("expose", || "the connection broke".to_owned())
}

/// Listeners of this process, for a runtime without a keeper program.
#[derive(Default)]
pub(crate) struct LocalPorts {
    listeners: Mutex<HashMap<(SandboxId, u16), Listener>>,
}

impl LocalPorts {
    fn lock(&self) -> MutexGuard<'_, HashMap<(SandboxId, u16), Listener>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self, id: &SandboxId, port: u16, listener: Listener) {
        self.lock().insert((id.clone(), port), listener);
    }

    pub(crate) async fn close(&self, id: &SandboxId, port: u16) {
        let listener = self.lock().remove(&(id.clone(), port));
        if let Some(listener) = listener {
            listener.close().await;
        }
    }

    pub(crate) async fn close_all(&self, id: &SandboxId) {
        let listeners: Vec<Listener> = self.lock().extract_if(|(sandbox, _), _| sandbox == id).map(|(_, listener)| listener).collect();
        for listener in listeners {
            listener.close().await;
        }
    }
}
