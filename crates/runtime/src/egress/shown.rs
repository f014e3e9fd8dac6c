use std::time::Duration;

use http::uri::Authority;
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::timeout,
};

/// Most bytes of a beginning that are looked at: browsers' TLS greetings have 2 KiB, HTTP servers take heads of 8 to 32 KiB.
const MOST: usize = 32 << 10;
/// How long a client that has begun may take until it has said to whom it speaks.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most lines of an HTTP head.
const LINES: usize = 100;

/// What a client shows of the name it wants to speak with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// Nothing: it is neither TLS nor HTTP, or names nobody.
    Nothing,
    /// A name or an address, lower case, and where it stands.
    Host(String, &'static str),
    /// Something that a server could understand otherwise than it is understood here.
    Unclear(&'static str),
}

/// What the first bytes say: `None` when more are needed.
fn read(bytes: &[u8]) -> Option<Shown> {
    /// `ContentType.handshake` of TLS.
    const HANDSHAKE: u8 = 22;
    match bytes.first()? {
        &HANDSHAKE => greeting(bytes),
        _ => head(bytes),
    }
}

fn greeting(mut bytes: &[u8]) -> Option<Shown> {
    let unclear = Some(Shown::Unclear("a TLS greeting that cannot be read"));
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        match acceptor.read_tls(&mut bytes) {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return unclear,
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return Some(name.map_or(Shown::Nothing, |name| Shown::Host(name, "the server name of TLS")));
            }
            Ok(None) => {}
            Err(_) => return unclear,
        }
    }
    None
}

fn head(bytes: &[u8]) -> Option<Shown> {
    let mut lines = [httparse::EMPTY_HEADER; LINES];
    let mut request = httparse::Request::new(&mut lines);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => Some(host_of(&request)),
        Ok(httparse::Status::Partial) => None,
        Err(_) if looks_like_http(bytes) => Some(Shown::Unclear("an HTTP request that is not well-formed")),
        Err(_) => Some(Shown::Nothing),
    }
}

fn host_of(request: &httparse::Request<'_, '_>) -> Shown {
    let named = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("host");
    let hosts: Vec<_> = request.headers.iter().filter(named).collect();
    let host = |text: &str, place| match text.parse::<Authority>() {
        Ok(authority) => Shown::Host(authority.host().trim_matches(['[', ']']).to_ascii_lowercase(), place),
        Err(_) => Shown::Unclear("an HTTP request for a host that is none"),
    };
    // A proxy, which a server may also be, goes by the target and not by the header.
    let target = request.path.unwrap_or_default();
    let target = match target.split_once("://") {
        Some((_, rest)) if !target.starts_with('/') => Some(rest.split(['/', '?', '#']).next().unwrap_or_default()),
        _ if request.method == Some("CONNECT") => Some(target),
        _ => None,
    };
    let shown = match hosts.as_slice() {
        [] => Shown::Nothing,
        [one] => match std::str::from_utf8(one.value) {
            Ok(value) => host(value.trim(), "the host of HTTP"),
            Err(_) => Shown::Unclear("an HTTP request for a host that is none"),
        },
        _ => Shown::Unclear("an HTTP request for several hosts"),
    };
    match (target.map(|target| host(target, "the target of HTTP")), shown) {
        (None, shown) => shown,
        (Some(Shown::Host(one, _)), Shown::Host(other, _)) if one != other => Shown::Unclear("an HTTP request for two hosts"),
        (Some(target), Shown::Host(..) | Shown::Nothing) => target,
        (Some(_), unclear) => unclear,
    }
}

/// Whether a lenient server could take it for HTTP.
fn looks_like_http(bytes: &[u8]) -> bool {
    let begin = bytes.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(bytes.len());
    let line = bytes[begin..].split(|byte| *byte == b'\n').next().unwrap_or_default();
    line.to_ascii_uppercase().windows(6).any(|part| part.ends_with(b"HTTP/") && part[0].is_ascii_whitespace())
}

/// Reads until it is clear what the client shows, or until the server speaks first, which no server of TLS or HTTP does. Gives what was read.
pub(super) async fn look(client: &mut (impl AsyncRead + Unpin), server: &TcpStream) -> std::io::Result<(Vec<u8>, Shown)> {
    let mut bytes = Vec::new();
    tokio::select! {
        biased;
        length = client.read_buf(&mut bytes) => if length? == 0 { return Ok((bytes, Shown::Nothing)) },
        readable = server.readable() => {
            readable?;
            return Ok((bytes, Shown::Nothing));
        }
    }
    let more = async {
        loop {
            if let Some(shown) = read(&bytes) {
                return Ok(shown);
            }
            if bytes.len() >= MOST {
                return Ok(Shown::Unclear("a beginning without end"));
            }
            if client.read_buf(&mut bytes).await? == 0 {
                return Ok(Shown::Nothing);
            }
        }
    };
    let shown = timeout(PATIENCE, more).await.unwrap_or(Ok(Shown::Unclear("a beginning that does not go on")));
    shown.map(|shown: Shown| (bytes, shown))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shows(text: &str) -> Option<Shown> {
        read(text.as_bytes())
    }

    fn host(name: &str) -> Option<Shown> {
        Some(Shown::Host(name.to_owned(), "the host of HTTP"))
    }

    #[test]
    fn the_host_of_a_request_is_read() {
        assert_eq!(shows("GET / HTTP/1.1\r\nA: b\r\nhOsT:  Example.com:8080 \r\n\r\n"), host("example.com"));
        assert_eq!(shows("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"), host("::1"));
        assert_eq!(shows("GET / HTTP/1.0\r\n\r\n"), Some(Shown::Nothing));
        let target = |name: &str| Some(Shown::Host(name.to_owned(), "the target of HTTP"));
        assert_eq!(shows("GET http://a.com/x HTTP/1.1\r\nHost: a.com\r\n\r\n"), target("a.com"));
        assert_eq!(shows("CONNECT b.com:443 HTTP/1.1\r\n\r\n"), target("b.com"));
        for beginning in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a.com\r\n"] {
            assert_eq!(shows(beginning), None, "{beginning:?}");
        }
    }

    #[test]
    fn a_request_that_can_be_understood_in_two_ways_is_not_understood() {
        for text in [
            "GET / HTTP/1.1\r\nHost: a.com\r\nHost: b.com\r\n\r\n",
            "GET http://b.com/ HTTP/1.1\r\nHost: a.com\r\n\r\n",
            "CONNECT b.com:443 HTTP/1.1\r\nHost: a.com\r\n\r\n",
            "GET / HTTP/1.1\r\n Host: a.com\r\nHost : b.com\r\n\r\n",
            "GET  / HTTP/1.1\r\nHost: b.com\r\n\r\n",
            "\x0bGET / http/1.1\nHost: b.com\n\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        ] {
            assert!(matches!(shows(text), Some(Shown::Unclear(_))), "{text:?}: {:?}", shows(text));
        }
    }

    #[test]
    fn other_protocols_show_nothing() {
        for text in ["SSH-2.0-OpenSSH_9.2\r\n", "EHLO a.com\r\n", "\0\x01\x02", "PING\r\n", "*1\r\n$4\r\nPING\r\n"] {
            assert_eq!(shows(text), Some(Shown::Nothing), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_makes_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 1..200), first in any::<bool>()) {
            if first {
                bytes[0] = 22;
            }
            let _ = read(&bytes);
        }
    }
}
