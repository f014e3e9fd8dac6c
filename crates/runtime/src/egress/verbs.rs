use sandbar_core::{
    Context, Error, ErrorKind, Feature, Lifetime, Network, Result, SandboxId, SandboxSpec, SandboxStats, no_datagrams_leave,
    only_ports_leave,
};

use super::{NetworkCounts, NetworkLog, NetworkReader, Vault};
use crate::{Runtime, Sandbox};

impl Sandbox {
    /// Changes what it may reach, from now on; connections that are not allowed any more are cut. With [`Network::None`] nothing is allowed until the next change.
    ///
    /// # Errors
    /// `PermissionDenied` when it reaches beyond the internet, for a key's holder below `admin`; `Conflict` when it was made without a network: nothing in it asks; `Unsupported` when a rule names UDP, or a port, that its provider or its kernel does not have. Those of the other host, where it is on one.
    pub async fn set_network(&self, network: Network) -> Result<()> {
        self.deed("network").at(&network).done(self.set_network_now(network.clone())).await
    }

    async fn set_network_now(&self, network: Network) -> Result<()> {
        let runtime = self.runtime();
        let row = runtime.row(self.id())?;
        runtime.holder().map_or(Ok(()), |holder| holder.allow_network(&network, &runtime.config().network))?;
        if runtime.provider(&row.provider)?.is_elsewhere() {
            self.handle_of(&row).await?.set_network(&network).await?;
            return runtime.ledger().set_network(self.id(), &kept(network)?);
        }
        if !row.gated {
            let error = Error::new(ErrorKind::Conflict, "network", "the sandbox was made without a network that rules could change");
            return Err(error.with("id", self.id()).with_hint("make one with --net, with rules that allow nothing yet such as deny=*"));
        }
        if network.needs_udp() {
            runtime.require(&row.provider, Feature::NetworkUdp)?;
            if let Some(why) = self.handle_of(&row).await?.no_datagrams() {
                return Err(no_datagrams_leave(&why).with("id", self.id()));
            }
        }
        if matches!(network, Network::Rules(_)) {
            let only = self.handle_of(&row).await?.only_ports();
            if let Some(rule) = network.needs_port_beside(&only) {
                return Err(only_ports_leave(&rule, &only).with("id", self.id()));
            }
        }
        runtime.ledger().set_network(self.id(), &kept(network)?)?;
        runtime.hasten_egress(self.id()).await;
        Ok(())
    }

    /// What was decided about its names and connections, here or on the other host that it is on.
    ///
    /// # Errors
    /// `NotFound` when the sandbox is gone.
    pub async fn network_log(&self) -> Result<NetworkReader> {
        let row = self.runtime().row(self.id())?;
        if self.runtime().provider(&row.provider)?.is_elsewhere() {
            return Ok(NetworkReader::there(self.handle_of(&row).await?));
        }
        Ok(NetworkReader::here(Self::network_log_in(self.runtime(), &row.id)))
    }

    /// Adds what whoever decides about what leaves has counted. Of a sandbox on another host, that one has.
    pub(crate) fn count_network(&self, stats: &mut SandboxStats) -> Result<()> {
        let row = self.runtime().row(self.id())?;
        if !row.gated {
            return Ok(());
        }
        let folder = self.runtime().home().sandbox(&row.id);
        let cannot = || format!("cannot read what was counted in {}", folder.display());
        let counts = NetworkCounts::of(&folder).context("stats", cannot)?;
        stats.network_sent_bytes = Some(counts.sent);
        stats.network_received_bytes = Some(counts.received);
        stats.network_allowed = Some(counts.allowed);
        stats.network_refused = Some(counts.refused);
        stats.network_failed = Some(counts.failed);
        Ok(())
    }

    /// The log of a sandbox here, which may be gone.
    pub(crate) fn network_log_in(runtime: &Runtime, id: &SandboxId) -> NetworkLog {
        NetworkLog::of(runtime.home().sandbox(id))
    }
}

/// What the ledger has of a network that was changed: it stays one that can be changed, after a stop and a start too.
fn kept(network: Network) -> Result<Network> {
    match network {
        Network::None | Network::Default => "deny=*".parse(),
        other => Ok(other),
    }
}

impl Runtime {
    /// Removes what is kept of a sandbox's or a checkpoint's secrets, unless another one has the same. Its row is gone.
    pub(crate) fn forget_secrets(&self, spec: &SandboxSpec) -> Result<()> {
        match &spec.secrets.vault {
            Some(vault) if !self.ledger().needs_secrets(vault)? => Vault::remove(self.home(), vault),
            _ => Ok(()),
        }
    }

    /// Tells whoever decides about what leaves a sandbox to look at it now.
    pub(crate) async fn hasten_egress(&self, id: &SandboxId) {
        self.local_egress().refresh(id);
        self.tell_keeper(id).await;
    }

    /// Sees to it that somebody decides about what leaves a sandbox: its keeper, or this process where there is none, or where the sandbox ends with
    /// this process anyway.
    pub(crate) async fn arrange_egress(&self, sandbox: &Sandbox, lifetime: Lifetime) -> Result<()> {
        if self.config().keeper.is_some() && lifetime == Lifetime::Detached {
            let Err(error) = self.nudge_keeper(sandbox.id()).await else { return Ok(()) };
            sandbox.destroy_now().await?;
            return Err(error);
        }
        self.local_egress().keep(sandbox);
        Ok(())
    }
}
