use std::{io, ops::RangeInclusive, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use sandbar_core::Decision;
use tokio::{io::join, net::TcpStream, time::sleep};

use super::{
    carrier::{Carrier, Inside, Verdict, between, relay},
    exchange::{Exchange, HEAD, Objection, Overseer, named},
    log::NetworkEvent,
    passage::Admitted,
    secret::Watched,
    service::Answer,
    shown::{self, MOST, Place, Shown},
};

/// How long a client may be silent in the middle of what may be the first line of a request, until that is passed on as it is: there are protocols in which
/// a server answers to a word.
const LINE: Duration = Duration::from_secs(10);

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
            let inside = join(Watched::new(held.clone(), admitted.watch()), held);
            let exchange = Exchange(Requests(Arc::clone(admitted)));
            between(outside, carriers, |near| exchange.run(Box::new(inside), near, false)).await
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

/// Those that follow it could not be told from its bytes.
const LATE: &str = "a part of an HTTP request, or with what the server says";

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
        Some(Shown::Nothing) => Some(Begun::Other),
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
struct Requests(Arc<Admitted>);

impl Overseer for Requests {
    fn oversee(&self, request: &mut Request<Incoming>) -> Result<(), Objection> {
        let named = named(request.uri(), request.headers())?;
        let place = if request.uri().authority().is_some() { Place::Target } else { Place::Header };
        let shown: Vec<Shown> = named.iter().map(|authority| Shown::named(authority, place)).collect();
        if shown.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(Objection::of(StatusCode::BAD_REQUEST, "an HTTP request for two hosts".to_owned()));
        }
        match shown.first().and_then(|shown| self.0.disagreement(shown)) {
            None => Ok(()),
            Some(decision) => Err(Objection::of(StatusCode::MISDIRECTED_REQUEST, decision.reason)),
        }
    }

    fn see_answer(&self, _: &mut Response<Incoming>) {}

    fn tell(&self, event: NetworkEvent, reason: String) {
        self.0.tell(event, reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
