use std::{
    fmt, io,
    ops::RangeInclusive,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::uri::Authority;
use rustls::server::Acceptor;
use tokio::io::{AsyncRead, ReadBuf};

/// Most bytes of a beginning that are looked at: browsers' TLS greetings have 2 KiB, HTTP servers take heads of 8 to 32 KiB.
pub(super) const MOST: usize = 32 << 10;
/// Most lines of an HTTP head.
const LINES: usize = 100;

/// What a client shows of the name it wants to speak with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// Nothing: it is neither TLS nor HTTP.
    Nothing,
    /// TLS that names nobody.
    NoServerName,
    /// An HTTP request that names nobody.
    NoHost,
    /// A name or an address, lower case, and where it stands.
    Host(String, Place),
    /// Something that a server could understand otherwise than it is understood here.
    Unclear(&'static str),
}

impl Shown {
    /// What stands there, without its port.
    pub(super) fn named(authority: &Authority, place: Place) -> Self {
        Self::Host(authority.host().trim_matches(['[', ']']).to_ascii_lowercase(), place)
    }

    /// Whether it is an HTTP request.
    pub(super) const fn is_request(&self) -> bool {
        matches!(self, Self::NoHost | Self::Host(_, Place::Header | Place::Target))
    }
}

/// Where a name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// TLS's greeting.
    ServerName,
    /// The header of an HTTP request.
    Header,
    /// What it asks for.
    Target,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServerName => "the server name of TLS",
            Self::Header => "the host of HTTP",
            Self::Target => "the target of HTTP",
        })
    }
}

/// What the first bytes say: `None` when more are needed.
pub(super) fn read(bytes: &[u8]) -> Option<Shown> {
    /// `ContentType` of TLS (RFC 8446, 5.1), of which one begins, and the byte that follows it in all versions.
    const HANDSHAKE: u8 = 22;
    const OTHERS: [u8; 4] = [20, 21, 23, 24];
    const VERSION: u8 = 3;
    const CLIENT_HELLO: u8 = 1;
    match (bytes.first()?, bytes.get(1)) {
        (&HANDSHAKE, _) => greeting(bytes),
        // There are servers that let warnings go before the greeting.
        (kind, Some(&VERSION)) if OTHERS.contains(kind) => Some(Shown::Unclear("TLS without a greeting")),
        (kind, None) if OTHERS.contains(kind) => None,
        // The greeting of SSL 2.0, which servers of old versions still take (RFC 5246, E.2): a length with its top bit set, then this. It can name nobody.
        (first, _) if first & 0x80 != 0 => match bytes.get(2) {
            None => None,
            Some(&CLIENT_HELLO) => Some(Shown::NoServerName),
            Some(_) => head(bytes),
        },
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
                return Some(name.map_or(Shown::NoServerName, |name| Shown::Host(name, Place::ServerName)));
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
        // Of a method nobody says how long it is at most.
        Ok(httparse::Status::Partial) => None,
        Err(_) if is_line_of_text(bytes) => None,
        Err(_) if looks_like_http(bytes) => Some(Shown::Unclear("an HTTP request that is not well-formed")),
        Err(_) if is_first_http(bytes) => Some(Shown::Unclear("a request of HTTP/0.9")),
        Err(_) => Some(Shown::Nothing),
    }
}

fn host_of(request: &httparse::Request<'_, '_>) -> Shown {
    let named = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("host");
    let hosts: Vec<_> = request.headers.iter().filter(named).collect();
    let host = |text: &str, place| match text.parse::<Authority>() {
        Ok(authority) => Shown::named(&authority, place),
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
        [] => Shown::NoHost,
        [one] => match std::str::from_utf8(one.value) {
            Ok(value) => host(value.trim(), Place::Header),
            Err(_) => Shown::Unclear("an HTTP request for a host that is none"),
        },
        _ => Shown::Unclear("an HTTP request for several hosts"),
    };
    match (target.map(|target| host(target, Place::Target)), shown) {
        (None, shown) => shown,
        (Some(Shown::Host(one, _)), Shown::Host(other, _)) if one != other => Shown::Unclear("an HTTP request for two hosts"),
        (Some(target), Shown::Host(..) | Shown::NoHost) => target,
        (Some(_), unclear) => unclear,
    }
}

/// What some server may take for the space between two words: RFC 9112 (3) lists what lenient ones do, and there are languages in which more is.
const fn is_space(byte: u8) -> bool {
    !byte.is_ascii_graphic()
}

/// The words of the first line that has some, and whether it has come to its end.
fn first_line(bytes: &[u8]) -> (impl Iterator<Item = &[u8]>, bool) {
    let begin = bytes.iter().position(|byte| !is_space(*byte)).unwrap_or(bytes.len());
    let end = bytes[begin..].iter().position(|byte| *byte == b'\n');
    let line = &bytes[begin..end.map_or(bytes.len(), |end| begin + end)];
    (line.split(|byte| is_space(*byte)).filter(|word| !word.is_empty()), end.is_some())
}

/// Whether it is the beginning of a line that a lenient server could take for a request when it has come to its end: a word, a space, and text.
fn is_line_of_text(bytes: &[u8]) -> bool {
    /// Of text there is none of it.
    const BINARY: RangeInclusive<u8> = 0..=8;
    let line = &bytes[bytes.iter().position(|byte| !is_space(*byte)).unwrap_or(bytes.len())..];
    line.iter().copied().any(is_space) && !line.iter().any(|byte| *byte == b'\n' || BINARY.contains(byte))
}

/// Whether it is a request as there were before there were versions of HTTP: a method and a target, which may have a host in it.
fn is_first_http(bytes: &[u8]) -> bool {
    let (mut words, is_whole) = first_line(bytes);
    let method = words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"GET"));
    let target = words.next().is_some_and(|word| word.starts_with(b"/") || word.windows(3).any(|part| part == b"://"));
    is_whole && method && target
}

/// Whether a lenient server could take it for HTTP.
fn looks_like_http(bytes: &[u8]) -> bool {
    first_line(bytes).0.skip(1).any(|word| word.get(..5).is_some_and(|begin| begin.eq_ignore_ascii_case(b"HTTP/")))
}

/// What a client sends, looked at until it is clear what it shows. Bytes are passed on meanwhile, since there are protocols in which a server answers to
/// few of them; but not those that make a greeting or a head complete, without which no server acts upon it, before they have been judged.
pub(super) struct Beginning<R, J> {
    client: R,
    /// What has come, until it is clear.
    seen: Option<Vec<u8>>,
    judge: J,
}

impl<R, J: FnMut(&Shown) -> bool> Beginning<R, J> {
    /// Looks at what comes from `client`. What `judge` does not accept ends it with `PermissionDenied`.
    pub(super) const fn new(client: R, judge: J) -> Self {
        Self { client, seen: Some(Vec::new()), judge }
    }

    /// Whether nothing is looked at any more.
    pub(super) const fn is_clear(&self) -> bool {
        self.seen.is_none()
    }

    /// Whether these bytes may go out.
    fn accepts(&mut self, bytes: &[u8]) -> bool {
        let Some(seen) = &mut self.seen else { return true };
        seen.extend_from_slice(bytes);
        let shown = match read(seen) {
            None if seen.len() < MOST => return true,
            None => Shown::Unclear("a beginning without end"),
            Some(shown) => shown,
        };
        self.seen = None;
        (self.judge)(&shown)
    }
}

impl<R: AsyncRead + Unpin, J: FnMut(&Shown) -> bool + Unpin> AsyncRead for Beginning<R, J> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.client).poll_read(context, buffer))?;
        if buffer.filled().len() > before && !self.accepts(&buffer.filled()[before..]) {
            buffer.set_filled(before);
            return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn shows(text: &str) -> Option<Shown> {
        read(text.as_bytes())
    }

    fn host(name: &str) -> Option<Shown> {
        Some(Shown::Host(name.to_owned(), Place::Header))
    }

    #[test]
    fn the_host_of_a_request_is_read() {
        assert_eq!(shows("GET / HTTP/1.1\r\nA: b\r\nhOsT:  Example.com:8080 \r\n\r\n"), host("example.com"));
        assert_eq!(shows("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"), host("::1"));
        assert_eq!(shows("GET / HTTP/1.0\r\n\r\n"), Some(Shown::NoHost));
        let target = |name: &str| Some(Shown::Host(name.to_owned(), Place::Target));
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
            "GET\x0b/\x0bHTTP/1.1\r\nHost: b.com\r\n\r\n",
            "GET /x \u{a0}HTTP/1.1\r\nHost: b.com\r\n\r\n",
            "GET\x1c/\x1dHTTP/1.1\r\n",
            "GET http://b.com/secret\r\n",
            "get\t/ \r\nHost: b.com\r\n\r\n",
            "\r\nGET /\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        ] {
            assert!(matches!(shows(text), Some(Shown::Unclear(_))), "{text:?}: {:?}", shows(text));
        }
    }

    /// What a TLS client says first.
    fn greeting_of(name: &'static str, with_name: bool) -> Vec<u8> {
        let builder = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into());
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let mut config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
        config.enable_sni = with_name;
        let mut greeting = Vec::new();
        let mut client = rustls::ClientConnection::new(config.into(), name.try_into().unwrap()).unwrap();
        client.write_tls(&mut greeting).unwrap();
        greeting
    }

    #[test]
    fn the_server_name_of_tls_is_read_and_its_lack_too() {
        assert_eq!(read(&greeting_of("Example.com", true)), Some(Shown::Host("example.com".to_owned(), Place::ServerName)));
        // To an address there is none.
        for greeting in [greeting_of("example.com", false), greeting_of("192.0.2.1", true)] {
            assert_eq!(read(&greeting), Some(Shown::NoServerName));
            assert_eq!(read(&greeting[..greeting.len() - 1]), None);
        }
    }

    #[test]
    fn a_greeting_of_old_names_nobody() {
        // RFC 5246, E.2: its length, CLIENT-HELLO, TLS 1.2, lengths of ciphers, session and challenge.
        let old = [0x80, 0x2e, 1, 3, 3, 0, 21, 0, 0, 0, 16];
        assert_eq!(read(&old), Some(Shown::NoServerName));
        assert_eq!((read(&old[..1]), read(&old[..2])), (None, None), "what may become one is waited for");
        assert_eq!(read(&[0x80, 0x2e, 2]), Some(Shown::Nothing));
    }

    #[test]
    fn other_protocols_show_nothing() {
        assert!(matches!(shows("\x15\x03\x01\0\x02\x01\0"), Some(Shown::Unclear(_))));
        for text in ["SSH-2.0-OpenSSH_9.2\r\n", "EHLO a.com\r\n", "\0\x01\x02", "PING\r\n", "*1\r\n$4\r\nPING\r\n"] {
            assert_eq!(shows(text), Some(Shown::Nothing), "{text:?}");
        }
    }

    /// What goes out of these pieces, and whether it was refused.
    async fn passed(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let (client, mut far) = tokio::io::duplex(1 << 20);
        let mut beginning = Beginning::new(client, |shown| match shown {
            Shown::Nothing | Shown::NoServerName | Shown::NoHost => true,
            Shown::Host(name, _) => name != "bad.com",
            Shown::Unclear(_) => false,
        });
        let mut out = Vec::new();
        for piece in pieces {
            far.write_all(piece).await.unwrap();
            out.reserve(1 << 20);
            match beginning.read_buf(&mut out).await {
                Ok(_) => {}
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                    return (out, true);
                }
            }
        }
        (out, false)
    }

    #[tokio::test]
    async fn what_completes_a_head_is_judged_before_it_goes_out() {
        let (out, refused) = passed(&[b"GET / HTTP/1.1\r\nHost: ", b"bad.com\r\n", b"\r\nmore"]).await;
        assert_eq!((out.as_slice(), refused), (&b"GET / HTTP/1.1\r\nHost: bad.com\r\n"[..], true));
        let good = b"GET / HTTP/1.1\r\nHost: good.com\r\n\r\n";
        assert_eq!(passed(&[good, b"what follows"]).await, ([&good[..], b"what follows"].concat(), false));
        // A protocol in which one letter is a message.
        assert_eq!(passed(&[b"a", b"b"]).await, (b"ab".to_vec(), false));
        // Until something comes that cannot be of a method it may be one.
        assert_eq!((shows(&"x".repeat(MOST)), shows(&format!("{}/", "x".repeat(80)))), (None, Some(Shown::Nothing)));
        let long = "A".repeat(80);
        assert!(passed(&[long.as_bytes(), b" / HTTP/1.1\r\nHost: bad.com\r\n\r\n"]).await.1);
        assert!(passed(&[b"GET  ", b"/ HTTP/1.1\r\nHost: bad.com\r\n\r\n"]).await.1);
        assert!(passed(&[b"GET\t/", b" HTTP/1.1\r\nHost: bad.com\r\n\r\n"]).await.1);
        assert_eq!(passed(&[b"EHLO  a", b".com\r\n"]).await, (b"EHLO  a.com\r\n".to_vec(), false));
        let endless = format!("GET /{}", "x".repeat(MOST));
        assert!(passed(&[endless.as_bytes()]).await.1);
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
