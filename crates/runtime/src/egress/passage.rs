use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sandbar_core::{Connection, Decision, Destination, DomainName, Policy, Protocol, SandboxHandle};
use tokio::{net::TcpStream, time::timeout};

use super::{
    carrier::{Carrier, Counted, Inside, Verdict, between},
    gate::{Gate, Wish},
    held::Held,
    log::NetworkEvent,
    meter::Place,
    own::is_own,
    plain,
    secret::{Failure, Interception, Watch},
    service::Answer,
    shown::Shown,
};

/// How long one address may take to be connected to.
const CONNECTING: Duration = Duration::from_secs(10);
/// Most addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// A connection, or a flow of datagrams, that waits for a decision.
pub(super) struct Passage {
    pub(super) gate: Arc<Gate>,
    pub(super) handle: Arc<dyn SandboxHandle>,
    pub(super) question: u64,
    pub(super) wish: Wish,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

/// What was allowed, and by what.
pub(super) struct Admitted {
    pub(super) gate: Arc<Gate>,
    pub(super) wish: Wish,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    pub(super) address: IpAddr,
    pub(super) decision: Decision,
    /// Whether TLS on it has named nobody: then the address alone has to be allowed, as long as it lasts.
    pub(super) is_nameless: AtomicBool,
    pub(super) _place: Place,
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
        let (addresses, place) = self.admit().await?;
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

    /// Decides and resolves: the addresses that may be connected to, and a place among the connections. `None`: it is refused, and told.
    pub(super) async fn admit(&mut self) -> Option<(Vec<(IpAddr, Decision)>, Place)> {
        // Read once: what is decided by is what was in force when it came.
        let policy = self.gate.policy();
        let place = match self.gate.meter.enter(policy.limits(), self.handle.most_connections()) {
            Ok(place) => place,
            Err(reached) => {
                self.gate.tell(&self.wish, NetworkEvent::Refused, &reached.into());
                return None;
            }
        };
        let found = match (self.wish.name.clone(), self.wish.address) {
            (Some(name), _) => self.by_name(&name, &policy).await,
            (None, Some(address)) => {
                let decision = policy.decide(&self.destination(None, address));
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
        if let Some(reason) = self.lack() {
            if let Some((_, decision)) = addresses.into_iter().next() {
                self.gate.tell(&self.wish, NetworkEvent::Refused, &Decision { allowed: false, reason, ..decision });
            }
            return None;
        }
        Some((addresses, place))
    }

    fn destination<'a>(&self, name: Option<&'a DomainName>, address: IpAddr) -> Destination<'a> {
        Destination { name, address, is_own: is_own(address), port: self.port, protocol: self.protocol }
    }

    /// What is missing of the secrets for the host.
    fn lack(&self) -> Option<String> {
        let name = self.wish.name.as_ref()?;
        let keyring = self.gate.keyring().filter(|keyring| keyring.has(name))?;
        if self.protocol == Protocol::Udp {
            return Some("a secret is for this host, and is put only into what goes there over TCP".to_owned());
        }
        keyring.check(name).err().map(|error| error.chain())
    }

    async fn connected(self, outside: TcpStream, address: IpAddr, decision: Decision, place: Place) -> Option<Open> {
        let _ = outside.set_nodelay(true);
        match self.handle.leave(self.question).await {
            Ok(inside) => {
                self.gate.tell(&self.wish, NetworkEvent::Allowed, &decision);
                let Self { gate, wish, port, protocol, .. } = self;
                let is_nameless = AtomicBool::new(false);
                let admitted = Admitted { gate, wish, port, protocol, address, decision, is_nameless, _place: place };
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
    async fn by_name(&mut self, name: &DomainName, policy: &Policy) -> Result<Vec<(IpAddr, Decision)>, (NetworkEvent, Decision)> {
        let asked = policy.decide_name(name);
        if !asked.allowed {
            return Err((NetworkEvent::Refused, asked));
        }
        let failed = |reason: String| (NetworkEvent::Failed, Decision { reason, ..asked.clone() });
        let found = self.gate.resolver.resolve(name).await.map_err(failed)?;
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in found.into_iter().map(|address| address.to_canonical()).take(MOST_ADDRESSES) {
            let decision = policy.decide(&self.destination(Some(name), address));
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
    /// Passes bytes both ways until both have ended, something breaks, or the policy does not allow it any more. In the latter cases it is reset.
    pub(super) async fn run(self, answer: &Answer) {
        let Self { admitted, inside, mut outside } = self;
        let admitted = Arc::new(admitted);
        let interception = admitted.interception();
        let mut inside = if interception.is_some() { Inside::Stream(Held::new(inside)) } else { Inside::new(inside) };
        let (counted, verdict) = (Counted::default(), Verdict::new());
        let all = &admitted.gate.counter;
        let [there, back] = [[&counted.sent, &all.sent], [&counted.received, &all.received]].map(|counters| Carrier {
            gate: &admitted.gate,
            counters,
            verdict: &verdict,
        });
        let mut relay: Pin<Box<dyn Future<Output = io::Result<()>> + Send + '_>> = match (interception, &mut inside) {
            (Some(interception), Inside::Stream(held)) => {
                // TLS tells of an end itself, and HTTP how much there is to come.
                answer.say(true).await;
                Box::pin(intercept(&admitted, interception, held.clone(), &mut outside, [there, back], &verdict))
            }
            (_, inside) => Box::pin(plain::carry(&admitted, inside, &mut outside, [there, back], &verdict, answer)),
        };
        // The policy may have changed while it was connected: nothing passes before it has been asked again.
        let broken = tokio::select! {
            biased;
            now = admitted.revoked() => Some((true, format!("cut off: {}", now.reason))),
            relayed = &mut relay => relayed.err().map(|error: io::Error| (verdict.get().is_some(), format!("broken off: {error}"))),
        };
        drop(relay);
        if let Some((is_cut, _)) = broken {
            if is_cut {
                // Nor may the server take what has come so far for all of it.
                let _ = outside.set_zero_linger();
                drop(outside);
            }
            answer.say(false).await;
            inside.await_reset().await;
        }
        let Admitted { gate, wish, decision, .. } = &*admitted;
        let (sent, received) = (counted.sent.load(Ordering::Relaxed), counted.received.load(Ordering::Relaxed));
        match verdict.get() {
            Some((event, decision)) => gate.tell_cut(wish, *event, decision, sent, received),
            None => gate.tell_end(wish, decision, broken.map_or_else(|| "ended".to_owned(), |(_, reason)| reason), sent, received),
        }
    }
}

/// With somebody in between, who puts secrets in.
async fn intercept(
    admitted: &Admitted,
    interception: Interception,
    inside: Held,
    outside: &mut TcpStream,
    carriers: [Carrier<'_>; 2],
    verdict: &Verdict,
) -> io::Result<()> {
    let run = |near| async {
        interception.run(inside, near).await.map_err(|failure| match failure {
            Failure::Broken(error) => error,
            Failure::Refused(refusal) => {
                let decision = Decision { allowed: false, reason: refusal.reason, ..admitted.decision.clone() };
                let _ = verdict.set((refusal.event, decision));
                io::ErrorKind::PermissionDenied.into()
            }
        })
    };
    between(outside, carriers, run).await
}

impl Admitted {
    /// Waits until the policy does not allow it any more.
    pub(super) async fn revoked(&self) -> Decision {
        let mut changes = self.gate.changes();
        loop {
            let policy: Arc<Policy> = Arc::clone(&changes.borrow_and_update());
            let mut now = policy.decide(&self.destination(self.wish.name.as_ref()));
            if now.allowed && self.is_nameless.load(Ordering::SeqCst) {
                now = policy.decide(&self.destination(None));
            }
            if !now.allowed {
                return now;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Who puts secrets in, where there are some for the host.
    fn interception(&self) -> Option<Interception> {
        let name = self.wish.name.as_ref()?;
        let keyring = self.gate.keyring().filter(|keyring| keyring.has(name))?;
        let (gate, wish, rule) = (Arc::clone(&self.gate), self.wish.clone(), self.decision.rule.clone());
        Some(Interception::new(Arc::clone(keyring), name.clone(), move |event, reason| gate.tell_of(&wish, rule.clone(), event, reason)))
    }

    /// Who looks for placeholders in what goes elsewhere.
    pub(super) fn watch(&self) -> Option<Watch> {
        let keyring = self.gate.keyring()?;
        let (gate, wish, rule) = (Arc::clone(&self.gate), self.wish.clone(), self.decision.rule.clone());
        let tell = move |name: &str| {
            gate.tell_of(
                &wish,
                rule.clone(),
                NetworkEvent::Leak,
                format!("the placeholder of {name} goes out as it is: it is not for this host"),
            );
        };
        Some(Watch::new(Arc::clone(keyring), tell))
    }

    /// Tells of what happens on it.
    pub(super) fn tell(&self, event: NetworkEvent, reason: String) {
        self.gate.counter.decided(event);
        self.gate.tell_of(&self.wish, self.decision.rule.clone(), event, reason);
    }

    /// It is not allowed after all.
    fn refused(&self, reason: String) -> Decision {
        Decision { allowed: false, reason, ..self.decision.clone() }
    }

    /// Refuses what begins so.
    pub(super) fn begins_with(&self, what: &str) -> Decision {
        self.refused(format!("it begins with {what}"))
    }

    /// Why what the client shows is refused.
    pub(super) fn disagreement(&self, shown: &Shown) -> Option<Decision> {
        let refused = |reason: String| Some(self.refused(reason));
        let (host, place) = match shown {
            Shown::Nothing | Shown::NoHost => return None,
            Shown::NoServerName => return self.nameless(),
            Shown::Unclear(what) => return Some(self.begins_with(what)),
            Shown::Host(host, place) => (host, place),
        };
        match (&self.wish.name, host.parse::<DomainName>()) {
            (Some(name), Ok(shown)) if shown == *name => None,
            (Some(name), _) => refused(format!("{place} is {host}, and {name} was resolved")),
            // Whoever goes to an address without a name may not say a name there that is refused.
            (None, Ok(shown)) => {
                let decision = self.gate.policy().decide(&self.destination(Some(&shown)));
                (!decision.allowed).then(|| Decision { reason: format!("{place} is {host}: {}", decision.reason), ..decision })
            }
            (None, Err(_)) if host.parse::<IpAddr>().is_ok_and(|shown| shown.to_canonical() == self.address) => None,
            (None, Err(_)) => refused(format!("{place} is {host}, and {} was connected to", self.address)),
        }
    }

    /// Why TLS is refused that names nobody: within it a server of many names may be asked for any of them. So where a name was resolved, it takes rules by which
    /// the address alone may be connected to, as they are for clients that go to addresses.
    fn nameless(&self) -> Option<Decision> {
        let name = self.wish.name.as_ref()?;
        // Before the rules are read: a change that comes then is decided about by whoever waits for one.
        self.is_nameless.store(true, Ordering::SeqCst);
        let is_allowed = self.gate.policy().decide(&self.destination(None)).allowed;
        (!is_allowed).then(|| self.refused(format!("TLS names no server, and {name} was resolved: no rule allows {} alone", self.address)))
    }

    fn destination<'a>(&self, name: Option<&'a DomainName>) -> Destination<'a> {
        Destination { name, address: self.address, is_own: is_own(self.address), port: self.port, protocol: self.protocol }
    }
}
