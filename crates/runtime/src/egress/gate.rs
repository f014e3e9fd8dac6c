use std::{
    net::IpAddr,
    path::Path,
    sync::{Arc, OnceLock},
};

use sandbar_core::{ClaimedProcess, Decision, DomainName, NetworkLimits, Policy, Protocol, SandboxId};
use tokio::sync::{Notify, Semaphore, watch};

use super::{
    counts::Counter,
    log::{NetworkEvent, NetworkRecord, Writer},
    meter::{Meter, Reached},
    resolver::Resolver,
    secret::Keyring,
};
use crate::{clock, runtime::WeakRuntime};

/// What all connections of one sandbox share: its policy as it is now, how much has passed, and its log.
pub(super) struct Gate {
    runtime: WeakRuntime,
    id: SandboxId,
    policy: watch::Sender<Arc<Policy>>,
    /// Somebody says that it is worth looking.
    pub(super) woken: Notify,
    pub(super) meter: Meter,
    pub(super) counter: Counter,
    pub(super) resolver: Resolver,
    /// Places of connections that are taken apart with room for large heads.
    pub(super) large_exchanges: Semaphore,
    log: Writer,
    /// Its secrets, when they were looked for; they do not change.
    keyring: OnceLock<Option<Arc<Keyring>>>,
}

/// Connections of plain HTTP with room for large heads.
const LARGE_EXCHANGES: usize = 256;

/// Who wants to reach what.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    pub(super) name: Option<DomainName>,
    pub(super) address: Option<IpAddr>,
    /// Of what is more than a name.
    pub(super) port: Option<u16>,
    /// By which it goes there, if it is more than a name.
    pub(super) protocol: Option<Protocol>,
    pub(super) process: Option<ClaimedProcess>,
}

impl Gate {
    pub(super) fn new(runtime: WeakRuntime, id: SandboxId, folder: &Path) -> Self {
        let (policy, woken) = (watch::Sender::default(), Notify::new());
        Self {
            runtime,
            id,
            policy,
            woken,
            meter: Meter::new(folder),
            counter: Counter::new(folder),
            resolver: Resolver::default(),
            large_exchanges: Semaphore::new(LARGE_EXCHANGES),
            log: Writer::new(folder.to_owned()),
            keyring: OnceLock::new(),
        }
    }

    /// The secrets, if there are some.
    pub(super) fn keyring(&self) -> Option<&Arc<Keyring>> {
        if let Some(keyring) = self.keyring.get() {
            return keyring.as_ref();
        }
        let runtime = self.runtime.upgrade()?;
        // Where the row cannot be read, nothing is allowed either.
        let secrets = runtime.row(&self.id).ok()?.spec.secrets;
        let keyring = (!secrets.is_empty()).then(|| {
            let authorities = runtime.config().authorities.clone();
            Arc::new(Keyring::new(runtime.home().clone(), secrets, authorities))
        });
        self.keyring.get_or_init(|| keyring).as_ref()
    }

    /// How much may pass, by the policy as it was read last.
    pub(super) fn limits(&self) -> NetworkLimits {
        self.policy.borrow().limits()
    }

    /// The policy as the ledger has it at this moment. Where it cannot be read, nothing is allowed.
    pub(super) fn policy(&self) -> Arc<Policy> {
        let row = self.runtime.upgrade().map(|runtime| runtime.row(&self.id));
        let policy = match row {
            Some(Ok(row)) => row.spec.network.policy().unwrap_or_default(),
            Some(Err(error)) => {
                tracing::warn!(id = %self.id, error = error.chain(), "cannot read the policy of the network");
                Policy::default()
            }
            None => Policy::default(),
        };
        self.policy.send_if_modified(|known| {
            let is_new = **known != policy;
            if is_new {
                *known = Arc::new(policy);
            }
            is_new
        });
        Arc::clone(&self.policy.borrow())
    }

    /// Tells of policies to come.
    pub(super) fn changes(&self) -> watch::Receiver<Arc<Policy>> {
        self.policy.subscribe()
    }

    pub(super) fn tell(&self, wish: &Wish, event: NetworkEvent, decision: &Decision) {
        self.counter.decided(event);
        self.log.add(record(wish, event, decision.rule.clone(), decision.reason.clone()));
    }

    /// Tells why one is cut off that has passed something.
    pub(super) fn tell_cut(&self, wish: &Wish, event: NetworkEvent, decision: &Decision, sent: u64, received: u64) {
        self.counter.decided(event);
        let record = record(wish, event, decision.rule.clone(), decision.reason.clone());
        self.log.add(NetworkRecord { sent: Some(sent), received: Some(received), ..record });
    }

    /// Tells of a placeholder in a name that is asked for.
    pub(super) fn watch_name(&self, name: &DomainName) {
        for secret in self.keyring().into_iter().flat_map(|keyring| keyring.found_in(name.as_str())) {
            let wish = Wish { name: Some(name.clone()), ..Wish::default() };
            self.tell_of(&wish, None, NetworkEvent::Leak, format!("the placeholder of {secret} is in a name that is asked for"));
        }
    }

    /// Tells of a connection that goes on.
    pub(super) fn tell_of(&self, wish: &Wish, rule: Option<String>, event: NetworkEvent, reason: String) {
        self.log.add(record(wish, event, rule, reason));
    }

    pub(super) fn tell_end(&self, wish: &Wish, decision: &Decision, reason: String, sent: u64, received: u64) {
        let record = record(wish, NetworkEvent::Ended, decision.rule.clone(), reason);
        self.log.add(NetworkRecord { sent: Some(sent), received: Some(received), ..record });
    }
}

impl From<Reached> for Decision {
    fn from(Reached { rule, reason }: Reached) -> Self {
        Self { allowed: false, rule: Some(rule), reason }
    }
}

fn record(wish: &Wish, event: NetworkEvent, rule: Option<String>, reason: String) -> NetworkRecord {
    NetworkRecord {
        time_ms: clock::now_ms(),
        event,
        protocol: wish.protocol.unwrap_or(Protocol::Dns).name().to_owned(),
        name: wish.name.as_ref().map(ToString::to_string),
        address: wish.address,
        port: wish.port,
        rule,
        reason,
        claimed_pid: wish.process.as_ref().map(|process| process.pid),
        claimed_process: wish.process.as_ref().map(|process| process.name.clone()),
        sent: None,
        received: None,
    }
}
