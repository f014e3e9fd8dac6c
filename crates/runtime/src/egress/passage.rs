use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sandbar_core::{Connection, Decision, Destination, DomainName, Policy, Protocol, SandboxHandle};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    gate::{Gate, Wish},
    log::NetworkEvent,
    meter::{Meter, Place, Reached},
    shown::{Beginning, Shown},
};

/// How long a name may take to be resolved. Resolvers give up after some five seconds a server.
const RESOLVING: Duration = Duration::from_secs(15);
/// How long one address may take to be connected to.
const CONNECTING: Duration = Duration::from_secs(10);
/// How long the agent may take to reset a connection.
const FAREWELL: Duration = Duration::from_secs(1);
/// Most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// A connection that waits for a decision.
pub(super) struct Passage {
    pub(super) gate: Arc<Gate>,
    pub(super) handle: Arc<dyn SandboxHandle>,
    pub(super) question: u64,
    pub(super) wish: Wish,
    pub(super) port: u16,
}

/// What was allowed, and by what.
pub(super) struct Admitted {
    gate: Arc<Gate>,
    wish: Wish,
    port: u16,
    address: IpAddr,
    decision: Decision,
    _place: Place,
}

/// A connection that was made.
pub(super) struct Open {
    admitted: Admitted,
    inside: Connection,
    outside: TcpStream,
}

impl Passage {
    /// Decides, resolves, connects. `None`: it is refused, and the agent is to be told.
    pub(super) async fn open(mut self) -> Option<Open> {
        let place = match self.gate.meter.enter(self.gate.policy().limits()) {
            Ok(place) => place,
            Err(reached) => {
                self.gate.tell(&self.wish, NetworkEvent::Refused, &reached.into());
                return None;
            }
        };
        let found = match (self.wish.name.clone(), self.wish.address) {
            (Some(name), _) => self.by_name(&name).await,
            (None, Some(address)) => {
                let decision = self.gate.policy().decide(&destination(None, address, self.port));
                if decision.allowed { Ok(vec![(address, decision)]) } else { Err((NetworkEvent::Refused, decision)) }
            }
            (None, None) => return None,
        };
        let addresses = match found {
            Ok(addresses) => addresses,
            Err((event, decision)) => {
                self.gate.tell(&self.wish, event, &decision);
                return None;
            }
        };
        let mut last = None;
        for (address, decision) in addresses {
            self.wish.address = Some(address);
            match timeout(CONNECTING, TcpStream::connect(SocketAddr::new(address, self.port))).await {
                Ok(Ok(outside)) => return self.connected(outside, address, decision, place).await,
                Ok(Err(error)) => last = Some((decision, format!("cannot connect: {error}"))),
                Err(_) => last = Some((decision, format!("did not answer within {} s", CONNECTING.as_secs()))),
            }
        }
        if let Some((decision, reason)) = last {
            self.gate.tell(&self.wish, NetworkEvent::Failed, &Decision { reason, ..decision });
        }
        None
    }

    async fn connected(self, outside: TcpStream, address: IpAddr, decision: Decision, place: Place) -> Option<Open> {
        let _ = outside.set_nodelay(true);
        match self.handle.leave(self.question).await {
            Ok(inside) => {
                self.gate.tell(&self.wish, NetworkEvent::Allowed, &decision);
                let admitted = Admitted { gate: self.gate, wish: self.wish, port: self.port, address, decision, _place: place };
                Some(Open { admitted, inside, outside })
            }
            Err(error) => {
                // Whoever asked has given up.
                self.gate.tell(&self.wish, NetworkEvent::Failed, &Decision { reason: error.message().to_owned(), ..decision });
                None
            }
        }
    }

    /// The addresses of a name that may be connected to. A name that may not be asked for is not looked up.
    async fn by_name(&mut self, name: &DomainName) -> Result<Vec<(IpAddr, Decision)>, (NetworkEvent, Decision)> {
        let policy = self.gate.policy();
        let asked = policy.decide_name(name);
        if !asked.allowed {
            return Err((NetworkEvent::Refused, asked));
        }
        let failed = |reason: String| (NetworkEvent::Failed, Decision { reason, ..asked.clone() });
        // The dot at the end keeps the host's search domains out of it.
        let found = timeout(RESOLVING, tokio::net::lookup_host((format!("{name}."), self.port))).await;
        let found = found.map_err(|_| failed(format!("the name was not resolved within {} s", RESOLVING.as_secs())))?;
        let found = found.map_err(|error| failed(format!("the name cannot be resolved: {error}")))?;
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in found.map(|address| address.ip().to_canonical()).take(MOST_ADDRESSES) {
            let decision = policy.decide(&destination(Some(name), address, self.port));
            if decision.allowed {
                allowed.push((address, decision));
            } else {
                self.wish.address.get_or_insert(address);
                refused.get_or_insert(decision);
            }
        }
        match (allowed.is_empty(), refused) {
            (false, _) => Ok(allowed),
            (true, Some(refused)) => Err((NetworkEvent::Refused, refused)),
            (true, None) => Err(failed("the name has no address".to_owned())),
        }
    }
}

impl Open {
    /// Passes bytes both ways until both have ended, something breaks, or the policy does not allow it any more. In the latter cases it is to be
    /// reset, which `reset` asks the agent for.
    pub(super) async fn run(self, reset: impl Future<Output = ()>) {
        let Self { admitted, inside, outside } = self;
        let mut changes = admitted.gate.changes();
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        let refusal = OnceLock::new();
        let (from_inside, mut to_inside) = tokio::io::split(inside);
        let (mut from_outside, mut to_outside) = outside.into_split();
        let judge = |shown: &Shown| match admitted.disagreement(shown) {
            None => true,
            Some(decision) => {
                let _ = refusal.set(decision);
                false
            }
        };
        let mut from_inside = Beginning::new(from_inside, judge);
        let full = |reached: Reached| {
            let _ = refusal.set(reached.into());
            io::Error::from(io::ErrorKind::QuotaExceeded)
        };
        let relay = async {
            let there = pass(&admitted.gate, &mut from_inside, &mut to_outside, &sent, &full);
            let back = pass(&admitted.gate, &mut from_outside, &mut to_inside, &received, &full);
            tokio::try_join!(there, back)
        };
        let revoked = async {
            loop {
                let policy: Arc<Policy> = Arc::clone(&changes.borrow_and_update());
                let now = policy.decide(&destination(admitted.wish.name.as_ref(), admitted.address, admitted.port));
                if !now.allowed {
                    return now;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let broken = tokio::select! {
            relayed = relay => relayed.err().map(|error: io::Error| format!("broken off: {error}")),
            now = revoked => Some(format!("cut off: {}", now.reason)),
        };
        if broken.is_some() {
            reset.await;
            // An end that comes before the reset would be taken for an orderly one.
            let _ = timeout(FAREWELL, tokio::io::copy(&mut from_inside, &mut tokio::io::sink())).await;
        }
        let Admitted { gate, wish, decision, .. } = &admitted;
        let (sent, received) = (sent.load(Ordering::Relaxed), received.load(Ordering::Relaxed));
        match refusal.get() {
            Some(refusal) => gate.tell(wish, NetworkEvent::Refused, refusal),
            None => gate.tell_end(wish, decision, broken.unwrap_or_else(|| "ended".to_owned()), sent, received),
        }
    }
}

impl Admitted {
    /// Why what the client shows is refused.
    fn disagreement(&self, shown: &Shown) -> Option<Decision> {
        let refused = |reason: String| Some(Decision { allowed: false, reason, ..self.decision.clone() });
        let (host, place) = match shown {
            Shown::Nothing => return None,
            Shown::Unclear(what) => return refused(format!("it begins with {what}")),
            Shown::Host(host, place) => (host, place),
        };
        match (&self.wish.name, host.parse::<DomainName>()) {
            (Some(name), Ok(shown)) if shown == *name => None,
            (Some(name), _) => refused(format!("{place} is {host}, and {name} was resolved")),
            // Whoever goes to an address without a name may not say a name there that is refused.
            (None, Ok(shown)) => {
                let decision = self.gate.policy().decide(&destination(Some(&shown), self.address, self.port));
                (!decision.allowed).then(|| Decision { reason: format!("{place} is {host}: {}", decision.reason), ..decision })
            }
            (None, Err(_)) if host.parse::<IpAddr>().is_ok_and(|shown| shown.to_canonical() == self.address) => None,
            (None, Err(_)) => refused(format!("{place} is {host}, and {} was connected to", self.address)),
        }
    }
}

fn destination(name: Option<&DomainName>, address: IpAddr, port: u16) -> Destination<'_> {
    Destination { name, address, port, protocol: Protocol::Tcp }
}

/// Passes bytes on, as many as may pass, until their end, which it passes on too.
async fn pass(
    gate: &Gate,
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    counter: &AtomicU64,
    full: &impl Fn(Reached) -> io::Error,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    loop {
        let limits = gate.limits();
        buffer.resize(Meter::piece(limits), 0);
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        gate.meter.spend(length, limits).await.map_err(full)?;
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
        counter.fetch_add(length as u64, Ordering::Relaxed);
    }
}
