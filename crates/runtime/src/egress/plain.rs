use std::{
    collections::BTreeSet,
    io,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::BytesMut;
use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_LENGTH, TRANSFER_ENCODING},
};
use hyper::body::Incoming;
use sandbar_core::Decision;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, join},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    carrier::{Carrier, Inside, Verdict, between, relay},
    exchange::{Buffers, Exchange, HEAD, Objection, Overseer, named},
    held::Held,
    log::NetworkEvent,
    passage::Admitted,
    secret::Watched,
    service::Answer,
    shown::{self, MOST, Place, Shown},
};

/// How long a client may be silent in the middle of what may be the first line of a request, until that is passed on as it is: there are protocols in which
/// a server answers to a word.
const LINE: Duration = Duration::from_secs(10);

/// Bytes of a client that are read ahead.
const AHEAD: usize = 8 << 10;
/// How long a server may be silent to a client that has said its end, and how often it is looked whether that one is still there.
const ANSWER: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);
/// How long, and how much, a client may still say to a server that has ended.
const FAREWELL: Duration = Duration::from_secs(5);
const MOST_REST: u64 = 16 << 20;
/// Different reasons for refusals that are told of one connection: the client chooses the words.
const MOST_REASONS: usize = 4;

/// Why a request is refused that comes where none is looked for: those that follow it could not be told from its bytes.
const LATE: &str = "a part of an HTTP request, or with what the server says";

/// How a connection begins.
enum Begun {
    /// With an HTTP request, whose head has come, or will not be waited for any longer.
    Request(Shown),
    /// Otherwise, or the server has begun.
    Other,
}

/// Passes bytes both ways until both have ended, requests of plain HTTP one by one. What does not agree with what was allowed does not go out.
pub(super) async fn carry(
    admitted: &Arc<Admitted>,
    inside: &mut Inside,
    outside: &mut TcpStream,
    carriers: [Carrier<'_>; 2],
    verdict: &Verdict,
    answer: &Answer,
) -> io::Result<()> {
    let refuse = |decision: Decision| {
        let _ = verdict.set((NetworkEvent::Refused, decision));
    };
    match begin(inside, outside).await? {
        Begun::Request(shown) => {
            if let Some(decision) = admitted.disagreement(&shown) {
                refuse(decision);
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            let held = inside.hold();
            // HTTP tells how much there is to come.
            answer.say(true).await;
            let place = admitted.gate.large_exchanges.try_acquire();
            let buffers = if place.is_ok() { Buffers::LARGE } else { Buffers::SMALL };
            let passed = [carriers[0].counters[0], carriers[1].counters[0]];
            let (said, mut ahead) = duplex(AHEAD);
            let exchange = Exchange::new(Requests::new(Arc::clone(admitted)), buffers);
            let mut reader = Watched::new(held.clone(), admitted.watch());
            let exchanged = between(outside, carriers, |near| exchange.run(Box::new(join(said, held.clone())), near, false));
            tokio::select! {
                done = exchanged => done?,
                left = leave(&mut reader, &mut ahead, passed, || held.is_closed()) => return Err(left),
            }
            farewell(held).await;
            Ok(())
        }
        Begun::Other => {
            let judge = |shown: &Shown| {
                let objection = if shown.is_request() { Some(admitted.begins_with(LATE)) } else { admitted.disagreement(shown) };
                objection.map(refuse).is_none()
            };
            relay(inside, outside, carriers, admitted.watch(), judge, answer).await
        }
    }
}

/// Reads ahead of whoever serves the requests, who does not look for an end while an answer is awaited. Returns when the client is gone: its connection is
/// broken; or closed, and nothing of what it said before goes on; or it has said its end, and no answer has come for a while.
async fn leave(
    reader: &mut (impl AsyncRead + Unpin),
    ahead: &mut DuplexStream,
    [sent, received]: [&AtomicU64; 2],
    is_closed: impl Fn() -> bool,
) -> io::Error {
    // A server that does not read holds back whoever reads ahead, who sees nothing of the client then.
    let gone = async {
        let passed = || [sent, received].map(|counter| counter.load(Ordering::Relaxed));
        let mut before = passed();
        loop {
            sleep(LOOK).await;
            let now = passed();
            if now == before && is_closed() {
                return io::Error::new(io::ErrorKind::ConnectionReset, "the client is gone");
            }
            before = now;
        }
    };
    let silent = async {
        if let Err(error) = tokio::io::copy(reader, ahead).await
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            return error;
        }
        let _ = ahead.shutdown().await;
        let (mut before, mut since) = (received.load(Ordering::Relaxed), Instant::now());
        while since.elapsed() < ANSWER {
            sleep(LOOK).await;
            let now = received.load(Ordering::Relaxed);
            if now != before {
                (before, since) = (now, Instant::now());
            }
        }
        io::Error::new(io::ErrorKind::TimedOut, "the client has ended, and no answer comes")
    };
    tokio::select! {
        error = silent => error,
        error = gone => error,
    }
}

/// Takes what the client still says after the last answer: closed with that unread it would hear of a reset, and perhaps not of the answer.
async fn farewell(mut held: Held) {
    let _ = held.shutdown().await;
    let mut rest = held.take(MOST_REST);
    let _ = timeout(FAREWELL, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

/// Looks at the beginning until it is clear what is spoken, and puts it back.
async fn begin(inside: &mut Inside, outside: &TcpStream) -> io::Result<Begun> {
    let mut seen = BytesMut::from(&*inside.take_ahead());
    let mut byte = [0];
    let begun = loop {
        if let Some(begun) = sort(&seen) {
            break Ok(begun);
        }
        let silent = async {
            match seen.is_empty() {
                true => std::future::pending().await,
                false => sleep(if has_line(&seen) { HEAD } else { LINE }).await,
            }
        };
        tokio::select! {
            biased;
            said = inside.next() => match said {
                Ok(said) if said.is_empty() => break Ok(Begun::Other),
                Ok(said) => seen.extend_from_slice(&said),
                Err(error) => break Err(error),
            },
            // The server speaks, or has ended.
            peeked = outside.peek(&mut byte) => break peeked.map(|_| Begun::Other),
            () = silent => break Ok(if has_line(&seen) { Begun::Request(Shown::Unclear("half a head of an HTTP request")) } else { Begun::Other }),
        }
    };
    inside.put_back(seen.freeze());
    begun
}

/// What these bytes begin, once it is clear.
fn sort(seen: &[u8]) -> Option<Begun> {
    /// `ContentType` of TLS (RFC 8446, 5.1). What it shows is judged on its way.
    const TLS: RangeInclusive<u8> = 20..=24;
    match seen.first() {
        None => return None,
        Some(kind) if TLS.contains(kind) => return Some(Begun::Other),
        Some(_) => {}
    }
    match shown::read(seen) {
        Some(shown @ (Shown::NoHost | Shown::Host(..) | Shown::Unclear(_))) => Some(Begun::Request(shown)),
        Some(Shown::Nothing | Shown::NoServerName) => Some(Begun::Other),
        None if seen.len() >= MOST => Some(Begun::Request(Shown::Unclear("a beginning without end"))),
        None if begins_with_method(seen) => None,
        // A server answers to it as it is, or not before it has come to its end.
        None => Some(Begun::Other),
    }
}

/// Whether it is a method of HTTP, which are all written so, or the beginning of one.
fn begins_with_method(seen: &[u8]) -> bool {
    let word = seen.split(|byte| *byte == b' ').next().unwrap_or_default();
    !word.is_empty() && word.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-')
}

/// Whether a line has come: where it is not clear then what is spoken, it is HTTP.
fn has_line(seen: &[u8]) -> bool {
    seen.contains(&b'\n')
}

/// Requests that go out as they are, if they may.
struct Requests {
    admitted: Arc<Admitted>,
    told: Mutex<BTreeSet<String>>,
}

impl Requests {
    fn new(admitted: Arc<Admitted>) -> Self {
        Self { admitted, told: Mutex::default() }
    }
}

impl Overseer for Requests {
    const ENDS_EARLY: bool = true;

    fn oversee(&self, request: &mut Request<Incoming>) -> Result<(), Objection> {
        if request.method() == Method::CONNECT {
            // Who has resolved a name speaks with it already. And a body would be a request to who does not expect one.
            let has_body = [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|header| request.headers().contains_key(header));
            if self.admitted.wish.name.is_some() || has_body {
                return Err(Objection::of(StatusCode::METHOD_NOT_ALLOWED, "a request to be connected through a host".to_owned()));
            }
        }
        let named = named(request.uri(), request.headers())?;
        let place = if request.uri().authority().is_some() { Place::Target } else { Place::Header };
        let shown: Vec<Shown> = named.iter().map(|authority| Shown::named(authority, place)).collect();
        if shown.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(Objection::of(StatusCode::BAD_REQUEST, "an HTTP request for two hosts".to_owned()));
        }
        match shown.first().and_then(|shown| self.admitted.disagreement(shown)) {
            None => Ok(()),
            Some(decision) => Err(Objection::of(StatusCode::MISDIRECTED_REQUEST, decision.reason)),
        }
    }

    fn see_answer(&self, _: &mut Response<Incoming>) {}

    fn may_follow(&self, shown: &Shown) -> bool {
        !shown.is_request() && self.admitted.disagreement(shown).is_none()
    }

    fn tell(&self, event: NetworkEvent, reason: String) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < MOST_REASONS && told.insert(reason.clone()) {
            self.admitted.tell(event, reason);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_said_its_end_may_wait_as_long_as_the_server_is_not_silent() {
        let ((mut client, mut reader), (_said, mut ahead)) = (duplex(AHEAD), duplex(AHEAD));
        client.shutdown().await.unwrap();
        let (sent, received, begun) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
        let speaks = async {
            for _ in 0..3 {
                sleep(ANSWER * 9 / 10).await;
                received.fetch_add(1, Ordering::Relaxed);
            }
        };
        let (left, ()) = tokio::join!(leave(&mut reader, &mut ahead, [&sent, &received], || false), speaks);
        assert_eq!(left.kind(), io::ErrorKind::TimedOut);
        let spoken = 3 * (ANSWER * 9 / 10);
        assert!((spoken + ANSWER..=spoken + ANSWER + 2 * LOOK).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        // One that has closed it waits for nothing.
        let begun = Instant::now();
        let left = leave(&mut reader, &mut ahead, [&sent, &received], || begun.elapsed() > 3 * LOOK).await;
        assert_eq!(left.kind(), io::ErrorKind::ConnectionReset);
        assert!(begun.elapsed() < 6 * LOOK, "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_is_seen_behind_a_server_that_does_not_read_and_what_it_said_goes_on() {
        let ((mut client, mut reader), (_said, mut ahead)) = (duplex(4 * AHEAD), duplex(AHEAD));
        client.write_all(&[b'x'; 2 * AHEAD]).await.unwrap();
        let (sent, received, begun) = (AtomicU64::new(0), AtomicU64::new(0), Instant::now());
        let goes_on = async {
            for _ in 0..5 {
                sent.fetch_add(1, Ordering::Relaxed);
                sleep(LOOK / 2).await;
            }
        };
        let (left, ()) = tokio::join!(leave(&mut reader, &mut ahead, [&sent, &received], || true), goes_on);
        assert_eq!(left.kind(), io::ErrorKind::ConnectionReset);
        assert!((2 * LOOK..6 * LOOK).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_client_whose_connection_breaks_is_gone_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut reader, (_said, mut ahead)) = (listener.accept().await.unwrap().0, duplex(AHEAD));
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        let mut left = pin!(leave(&mut reader, &mut ahead, [&sent, &received], || false));
        assert!(timeout(Duration::from_millis(10), &mut left).await.is_err(), "it is there still");
        client.set_zero_linger().unwrap();
        drop(client);
        assert_eq!(timeout(ANSWER, left).await.unwrap().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn what_may_be_a_request_is_waited_for_and_nothing_else() {
        for text in ["", "G", "GET", "GET ", "GET /a HTTP", "VERSION-CONTROL /", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a.com\r\n"]
        {
            assert!(sort(text.as_bytes()).is_none(), "{text:?}");
        }
        for text in [
            "get / HTTP/1.1\r\n",
            "\r\n",
            "{\"a\": 1",
            "hello",
            "EHLO a.com\r\n",
            "\x16\x03",
            "\x15",
            "SSH-2.0-x\r\n",
            "PING\r\n",
            "GET\t/",
        ] {
            assert!(matches!(sort(text.as_bytes()), Some(Begun::Other)), "{text:?}");
        }
        let is_request = |text: &str| matches!(sort(text.as_bytes()), Some(Begun::Request(_)));
        for text in
            ["GET / HTTP/1.0\r\n\r\n", "get / HTTP/1.1\r\nHost: a.com\r\n\r\n", "GET  / HTTP/1.1\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        {
            assert!(is_request(text), "{text:?}");
        }
        assert!(is_request(&format!("GET /{}", "x".repeat(MOST))));
    }
}
