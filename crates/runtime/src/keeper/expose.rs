use std::{net::SocketAddr, time::Duration};

use sandbar_core::{Error, ErrorKind, ExposedPort, Feature, Lifetime, Result, State};
use tokio::time::sleep;

use crate::{Runtime, Sandbox, clock, fault, ledger::PortRow, ports, runtime::to_the_end};

impl Sandbox {
    /// Listens on the host and passes each connection to the port inside, until [`unexpose_port`](Self::unexpose_port) or the sandbox's end: by
    /// the keeper, if the configuration names its program, else by this process as long as the runtime lives. A port 0 in `listen` takes a free one.
    ///
    /// # Errors
    /// `AlreadyExists` when the port is exposed already or the address is taken; `PermissionDenied` to a key's holder who may not listen there.
    pub async fn expose_port(&self, port: u16, listen: SocketAddr) -> Result<ExposedPort> {
        self.deed("expose").at(format!("{port} at {listen}")).done(self.expose_port_now(port, listen)).await
    }

    async fn expose_port_now(&self, port: u16, listen: SocketAddr) -> Result<ExposedPort> {
        if port == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "expose", "a port is 1 to 65535"));
        }
        self.runtime().holder().map_or(Ok(()), |holder| holder.allow_listening(listen))?;
        self.usable(&[State::Running]).await?;
        let row = self.runtime().row(self.id())?;
        self.runtime().require(&row.provider, Feature::ExposePort)?;
        let sandbox = self.clone();
        to_the_end(async move {
            sandbox.forget_dead_holders()?;
            let kept = sandbox.runtime().config().keeper.is_some();
            let holder = (!kept).then_some(sandbox.runtime().me());
            sandbox.runtime().ledger().insert_port(sandbox.id(), port, listen, holder)?;
            fault::point("expose.row");
            let exposed = match kept {
                true => sandbox.expose_by_keeper(port).await,
                false => sandbox.expose_here(port, listen).await,
            };
            fault::point("expose.listening");
            if exposed.is_err() {
                sandbox.runtime().ledger().delete_port(sandbox.id(), port)?;
                if kept {
                    sandbox.runtime().tell_keeper(sandbox.id()).await;
                }
            }
            exposed
        })
        .await
    }

    /// Ends the listener and its connections.
    ///
    /// # Errors
    /// `NotFound` when the port is not exposed; `Conflict` when another process that has no keeper holds it.
    pub async fn unexpose_port(&self, port: u16) -> Result<()> {
        self.deed("unexpose").at(port).done(self.unexpose_port_now(port)).await
    }

    async fn unexpose_port_now(&self, port: u16) -> Result<()> {
        let runtime = self.runtime();
        self.forget_dead_holders()?;
        let row = runtime.ledger().ports(self.id())?.into_iter().find(|row| row.port == port);
        if let Some(holder) = row.and_then(|row| row.holder)
            && holder != *runtime.me()
        {
            let error = Error::new(ErrorKind::Conflict, "unexpose", "the port is held by another process");
            return Err(error.with("port", port).with("process", holder.pid));
        }
        if !runtime.ledger().delete_port(self.id(), port)? {
            return Err(Error::new(ErrorKind::NotFound, "unexpose", "the port is not exposed").with("port", port));
        }
        runtime.local_ports().close(self.id(), port).await;
        runtime.tell_keeper(self.id()).await;
        Ok(())
    }

    /// The ports that listen on the host, by number.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn exposed_ports(&self) -> Result<Vec<ExposedPort>> {
        let boot = self.runtime().ledger().boot();
        let listening = |row: PortRow| {
            let held = row.failure.is_none() && row.holder.is_none_or(|holder| holder.is_alive(boot));
            row.actual.filter(|_| held).map(|listen| ExposedPort { port: row.port, listen })
        };
        Ok(self.runtime().ledger().ports(self.id())?.into_iter().filter_map(listening).collect())
    }

    async fn expose_by_keeper(&self, port: u16) -> Result<ExposedPort> {
        self.runtime().nudge_keeper(self.id()).await?;
        let row = self.runtime().ledger().ports(self.id())?.into_iter().find(|row| row.port == port);
        match row {
            Some(PortRow { actual: Some(listen), failure: None, .. }) => Ok(ExposedPort { port, listen }),
            Some(PortRow { failure: Some(failure), .. }) => {
                let (kind, message) = failure.split_once('\t').unwrap_or(("", &failure));
                Err(Error::new(ErrorKind::from_name(kind).unwrap_or(ErrorKind::Unavailable), "expose", message).with("port", port))
            }
            _ => Err(Error::new(ErrorKind::Unavailable, "expose", "the keeper does not listen").with("port", port)),
        }
    }

    async fn expose_here(&self, port: u16, listen: SocketAddr) -> Result<ExposedPort> {
        let listener = ports::forward(self, port, listen, ports::room()).await?;
        let listen = listener.address();
        self.runtime().ledger().set_port(self.id(), port, Ok(listen))?;
        self.runtime().local_ports().keep(self.id(), port, listener);
        Ok(ExposedPort { port, listen })
    }

    /// Has it destroyed this long from now on, whatever was said before.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub async fn expire_in(&self, ttl: Duration) -> Result<()> {
        self.deed("expire").at(format!("in {} ms", clock::millis(ttl))).done(self.expire_in_now(ttl)).await
    }

    async fn expire_in_now(&self, ttl: Duration) -> Result<()> {
        let runtime = self.runtime();
        let row = runtime.row(self.id())?;
        runtime.ledger().set_expiry(self.id(), clock::now_ms().saturating_add(clock::millis(ttl)))?;
        match runtime.config().keeper.is_some() && row.lifetime == Lifetime::Detached {
            true => runtime.nudge_keeper(self.id()).await,
            false if row.expires_ms.is_none() => runtime.arrange_deadline(self, row.lifetime).await,
            false => Ok(()),
        }
    }

    /// Ports that a process kept which is gone.
    pub(crate) fn forget_dead_holders(&self) -> Result<()> {
        let ledger = self.runtime().ledger();
        for row in ledger.ports(self.id())? {
            if row.holder.is_some_and(|holder| !holder.is_alive(ledger.boot())) {
                ledger.delete_port(self.id(), row.port)?;
            }
        }
        Ok(())
    }
}

impl Runtime {
    /// Sees to it that a sandbox with a time to live ends in time: by its keeper, or by this process where there is none, or where the sandbox
    /// ends with this process anyway. Whoever runs a command later is the last resort.
    pub(crate) async fn arrange_deadline(&self, sandbox: &Sandbox, lifetime: Lifetime) -> Result<()> {
        if self.config().keeper.is_some() && lifetime == Lifetime::Detached {
            let Err(error) = self.nudge_keeper(sandbox.id()).await else { return Ok(()) };
            sandbox.destroy_now().await?;
            return Err(error);
        }
        let (runtime, id) = (self.downgrade(), sandbox.id().clone());
        tokio::spawn(async move {
            // In short steps, since the clock may be set, the machine may sleep, and the time may be changed.
            loop {
                let Some(runtime) = runtime.upgrade() else { return };
                let Ok(Some(expires)) = runtime.row(&id).map(|row| row.expires_ms) else { return };
                let left = expires.saturating_sub(clock::now_ms());
                if left > 0 {
                    drop(runtime);
                    sleep(Duration::from_millis(left.min(1000))).await;
                    continue;
                }
                match runtime.recover(&id).await {
                    Ok(crate::recover::Recovered::Removed) => return,
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%id, error = error.chain(), "its time has passed, and it cannot be destroyed"),
                }
                sleep(Duration::from_millis(100)).await;
            }
        });
        Ok(())
    }
}
