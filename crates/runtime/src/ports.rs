//! Ports of sandboxes on listeners of the host.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use sandbar_backends::Forwarding;
use sandbar_core::{Connection, Context, Result, SandboxId};
use tokio::sync::Semaphore;

use crate::{
    Sandbox,
    runtime::{Runtime, WeakRuntime, gone},
};

/// Connections at the same time over all listeners of a process; more wait in the kernel's queue.
const MOST_CONNECTIONS: usize = 4096;

/// The room for connections that the listeners of one process share.
pub(crate) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(MOST_CONNECTIONS))
}

/// Listens at `address` and passes each connection to `port` inside.
///
/// # Errors
/// `AlreadyExists` when the address is taken.
pub(crate) async fn forward(sandbox: &Sandbox, port: u16, address: SocketAddr, room: Arc<Semaphore>) -> Result<Forwarding> {
    let inside = Inside { runtime: sandbox.runtime().downgrade(), id: sandbox.id().clone() };
    let dial = move || {
        let inside = inside.clone();
        async move { inside.connect(port).await }
    };
    let listening = Forwarding::bind(address, room, dial).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => io::Error::new(io::ErrorKind::AlreadyExists, error),
        _ => error,
    });
    listening.context("expose", || format!("cannot listen on {address}"))
}

/// A sandbox that its listeners do not keep: the runtime keeps the listeners.
#[derive(Clone)]
struct Inside {
    runtime: WeakRuntime,
    id: SandboxId,
}

impl Inside {
    async fn connect(&self, port: u16) -> Result<Connection> {
        let runtime: Runtime = self.runtime.upgrade().ok_or_else(|| gone(&self.id))?;
        let row = runtime.row(&self.id)?;
        Sandbox::of(runtime, &row).dial_port(port).await
    }
}

/// Listeners of this process, for a runtime without a keeper program.
#[derive(Default)]
pub(crate) struct LocalPorts {
    listeners: Mutex<HashMap<(SandboxId, u16), Forwarding>>,
}

impl LocalPorts {
    fn lock(&self) -> MutexGuard<'_, HashMap<(SandboxId, u16), Forwarding>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self, id: &SandboxId, port: u16, listener: Forwarding) {
        self.lock().insert((id.clone(), port), listener);
    }

    pub(crate) async fn close(&self, id: &SandboxId, port: u16) {
        let listener = self.lock().remove(&(id.clone(), port));
        if let Some(listener) = listener {
            listener.close().await;
        }
    }

    pub(crate) async fn close_all(&self, id: &SandboxId) {
        let listeners: Vec<Forwarding> = self.lock().extract_if(|(sandbox, _), _| sandbox == id).map(|(_, listener)| listener).collect();
        for listener in listeners {
            listener.close().await;
        }
    }
}
