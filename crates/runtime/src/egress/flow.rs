use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::BytesMut;
use sandbar_core::{DatagramStream, Decision};
use tokio::{
    io::{Interest, Ready},
    net::UdpSocket,
    time::{Instant, sleep_until, timeout},
};

use super::{
    carrier::{Counted, Verdict},
    gate::Gate,
    log::NetworkEvent,
    meter::{Place, Reached},
    passage::{Admitted, Passage},
    service::Answer,
};

/// How long a flow may be silent: as long as those who translate addresses wait (RFC 4787, 4.3).
const SILENCE: Duration = Duration::from_secs(120);
/// The same where no answer has come yet, as in one question that nobody answers.
const UNANSWERED: Duration = Duration::from_secs(30);
/// How long the agent may take to refuse what comes next.
const FAREWELL: Duration = Duration::from_secs(1);
/// Bytes of the largest datagram.
const LARGEST: usize = 65_535;
/// Bytes that count beside a datagram's own: those of UDP's header, so that even empty ones are not for nothing.
const HEADER: usize = 8;

/// Datagrams between one socket inside and one address.
pub(super) struct Flow {
    admitted: Admitted,
    inside: Box<dyn DatagramStream>,
    outside: UdpSocket,
}

/// Why one ends.
enum End {
    /// It was silent.
    Silent,
    /// The sandbox does not need it any more, or is gone.
    Inside,
    /// Nothing can be sent there, or it is not to be.
    Broken(io::Error),
}

impl Passage {
    /// Decides, resolves, and takes a socket for it. `None`: it is refused, and the agent is to be told.
    pub(super) async fn open_flow(mut self) -> Option<Flow> {
        let (addresses, place) = self.admit().await?;
        let mut last = None;
        for (address, decision) in addresses {
            self.wish.address = Some(address);
            // The first that there is a way to: nothing tells whether somebody listens there.
            match connected(SocketAddr::new(address, self.port)).await {
                Ok(outside) => return self.associated(outside, address, decision, place).await,
                Err(error) => last = Some((decision, format!("cannot be reached: {error}"))),
            }
        }
        if let Some((decision, reason)) = last {
            self.gate.tell(&self.wish, NetworkEvent::Failed, &Decision { reason, ..decision });
        }
        None
    }

    async fn associated(self, outside: UdpSocket, address: IpAddr, decision: Decision, place: Place) -> Option<Flow> {
        match self.handle.leave_datagrams(self.question).await {
            Ok(inside) => {
                self.gate.tell(&self.wish, NetworkEvent::Allowed, &decision);
                let Self { gate, wish, port, protocol, .. } = self;
                let is_nameless = AtomicBool::new(false);
                let admitted = Admitted { gate, wish, port, protocol, address, decision, is_nameless, _place: place };
                Some(Flow { admitted, inside, outside })
            }
            Err(error) => {
                // Whoever asked has given up.
                self.gate.tell(&self.wish, NetworkEvent::Failed, &Decision { reason: error.message().to_owned(), ..decision });
                None
            }
        }
    }
}

/// A socket that hears from this address only.
async fn connected(to: SocketAddr) -> io::Result<UdpSocket> {
    let own: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((own, 0)).await?;
    socket.connect(to).await?;
    Ok(socket)
}

impl Flow {
    /// Passes datagrams both ways until neither side has sent one for a while, something fails, or the policy does not allow it any more. In the latter
    /// cases whoever sends inside is told.
    pub(super) async fn run(self, answer: &Answer) {
        let Self { admitted, mut inside, outside } = self;
        let (counted, verdict) = (Counted::default(), Verdict::new());
        let end = tokio::select! {
            biased;
            now = admitted.revoked() => Err(now),
            end = pass(&admitted, inside.as_mut(), &outside, &counted, &verdict) => Ok(end),
        };
        drop(outside);
        let (is_refused, reason) = match end {
            Err(now) => (true, format!("cut off: {}", now.reason)),
            Ok(End::Broken(error)) => (true, format!("broken off: {error}")),
            Ok(End::Silent) => (false, "silent".to_owned()),
            Ok(End::Inside) => (false, "ended".to_owned()),
        };
        if is_refused {
            answer.say(false).await;
            // An end that comes before would be taken for one that nobody needs to hear of.
            let _ = timeout(FAREWELL, async { while let Ok(Some(_)) = inside.next().await {} }).await;
        }
        let Admitted { gate, wish, decision, .. } = &admitted;
        let (sent, received) = (counted.sent.load(Ordering::Relaxed), counted.received.load(Ordering::Relaxed));
        match verdict.get() {
            Some((event, decision)) => gate.tell_cut(wish, *event, decision, sent, received),
            None => gate.tell_end(wish, decision, reason, sent, received),
        }
    }
}

async fn pass(admitted: &Admitted, inside: &mut dyn DatagramStream, outside: &UdpSocket, counted: &Counted, verdict: &Verdict) -> End {
    let mut watch = admitted.watch();
    let mut end = Instant::now() + UNANSWERED;
    let mut is_answered = false;
    loop {
        let passed = tokio::select! {
            () = sleep_until(end) => return End::Silent,
            sent = inside.next() => match sent {
                Ok(Some(datagram)) => {
                    if let Some(watch) = &mut watch {
                        watch.see(&datagram);
                    }
                    there(&admitted.gate, &datagram, outside, counted, verdict).await
                }
                Ok(None) | Err(_) => return End::Inside,
            },
            // What it hears of a datagram that did not arrive is no datagram.
            ready = outside.ready(Interest::READABLE | Interest::ERROR) => match ready {
                Ok(ready) => match receive(outside, ready) {
                    Ok(None) => continue,
                    Ok(Some(datagram)) => {
                        is_answered = true;
                        match pay(&admitted.gate, datagram.len(), verdict).await {
                            Ok(()) if inside.send(&datagram).await.is_err() => return End::Inside,
                            Ok(()) => {
                                counted.received.fetch_add(datagram.len() as u64, Ordering::Relaxed);
                                Ok(())
                            }
                            Err(error) => Err(error),
                        }
                    }
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            },
        };
        if let Err(error) = passed {
            return End::Broken(error);
        }
        end = Instant::now() + if is_answered { SILENCE } else { UNANSWERED };
    }
}

/// Sends one there.
async fn there(gate: &Gate, datagram: &[u8], outside: &UdpSocket, counted: &Counted, verdict: &Verdict) -> io::Result<()> {
    pay(gate, datagram.len(), verdict).await?;
    match outside.send(datagram).await {
        Ok(length) => {
            counted.sent.fetch_add(length as u64, Ordering::Relaxed);
            Ok(())
        }
        // It is lost, as any may be.
        Err(error) if is_of_one(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What has come, if there is something after all. Between datagrams there is no buffer, since most flows wait most of the time.
fn receive(outside: &UdpSocket, ready: Ready) -> io::Result<Option<BytesMut>> {
    if ready.is_error() {
        let heard = outside.take_error()?.filter(|error| !is_of_one(error));
        let _: io::Result<()> = outside.try_io(Interest::ERROR, || Err(io::ErrorKind::WouldBlock.into()));
        return heard.map_or(Ok(None), Err);
    }
    let mut buffer = BytesMut::with_capacity(LARGEST);
    match outside.try_recv_buf(&mut buffer) {
        Ok(_) => Ok(Some(buffer)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_of_one(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether it is about one datagram, which was too large or found no room, and not about all.
fn is_of_one(error: &io::Error) -> bool {
    matches!(rustix::io::Errno::from_io_error(error), Some(rustix::io::Errno::MSGSIZE | rustix::io::Errno::NOBUFS))
}

async fn pay(gate: &Gate, bytes: usize, verdict: &Verdict) -> io::Result<()> {
    let full = |reached: Reached| {
        let _ = verdict.set((NetworkEvent::Refused, reached.into()));
        io::Error::from(io::ErrorKind::QuotaExceeded)
    };
    gate.meter.spend(HEADER + bytes, gate.limits()).await.map_err(full)
}
