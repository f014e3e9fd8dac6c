use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, HeaderName, TRANSFER_ENCODING, UPGRADE},
    uri::Authority,
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn as client,
    server::conn as server,
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sandbar_core::Connection;
use tokio::sync::{Mutex, Notify};

use super::{
    log::NetworkEvent,
    shown::{Beginning, Shown},
    tasks::{Beside, Tasks},
};

/// How long the head of a request may take, from the end of the one before: browsers and servers close what idles after one to five minutes.
pub(super) const HEAD: Duration = Duration::from_secs(60);
/// Requests of one connection that go no further, until it is ended: whoever goes on would only fill the log.
const MOST_REFUSED: u32 = 16;
/// Requests at the same time, over HTTP/2.
const MOST_REQUESTS: u32 = 64;
/// Bytes of a head over HTTP/2: servers take 8 to 32 KiB. And of a body that wait to be sent on, of each request and each answer.
const HEAD_BYTES: u32 = 32 << 10;
const WAITING: usize = 16 << 10;
/// Bytes that the other side may send ahead over HTTP/2: of one request's body, of one answer's, and of all together on a connection.
const STREAM_IN: u32 = 128 << 10;
const STREAM_OUT: u32 = 512 << 10;
const CONNECTION_IN: u32 = 256 << 10;
const CONNECTION_OUT: u32 = 1 << 20;
/// How often the client is asked whether it is there still, and how long it may take to say so.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

type Body = BoxBody<Bytes, hyper::Error>;

/// Who looks at each request of a connection, and at each answer.
pub(super) trait Overseer: Send + Sync + 'static {
    /// Makes a request one that may go to the server, as it is sent there.
    ///
    /// # Errors
    /// Why it goes no further.
    fn oversee(&self, request: &mut Request<Incoming>) -> Result<(), Objection>;

    /// Looks at what stands before an answer.
    fn see_answer(&self, response: &mut Response<Incoming>);

    /// Whether a connection that has gone over to another protocol may go on with this.
    fn may_follow(&self, shown: &Shown) -> bool;

    /// Whether a client may say its end before it has its answer. Over HTTP/1 nobody looks for its end then: that is for who runs the exchange.
    const ENDS_EARLY: bool;

    /// Tells of what happened.
    fn tell(&self, event: NetworkEvent, reason: String);
}

/// Requests to one server, and its answers, on one connection.
pub(super) struct Exchange<O> {
    overseer: O,
    buffers: Buffers,
    /// Requests that went no further.
    refused: AtomicU32,
}

/// How many bytes are held of what comes, over HTTP/1: of a request and its body, and of an answer. As many again wait to be sent on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buffers {
    request: usize,
    answer: usize,
}

impl Buffers {
    /// For heads as they are.
    pub(super) const LARGE: Self = Self { request: 32 << 10, answer: 64 << 10 };
    /// For very many connections at a time: as little as hyper can do with.
    pub(super) const SMALL: Self = Self { request: 8 << 10, answer: 8 << 10 };
}

/// Where requests go.
enum Server {
    H1(Mutex<client::http1::SendRequest<Incoming>>),
    H2(client::http2::SendRequest<Incoming>),
}

/// Why a request goes no further.
pub(super) struct Objection {
    pub(super) status: StatusCode,
    pub(super) reason: String,
    /// What the client hears, where that is not the reason.
    pub(super) said: Option<&'static str>,
}

impl Objection {
    pub(super) const fn of(status: StatusCode, reason: String) -> Self {
        Self { status, reason, said: None }
    }
}

impl<O: Overseer> Exchange<O> {
    pub(super) const fn new(overseer: O, buffers: Buffers) -> Self {
        Self { overseer, buffers, refused: AtomicU32::new(0) }
    }

    /// Passes requests and answers on, until both sides have ended. Both speak HTTP/2, or neither does.
    pub(super) async fn run(self, inside: Connection, outside: Connection, is_h2: bool) -> io::Result<()> {
        let tasks = Tasks::default();
        let beside = tasks.beside();
        let closed = Arc::new(Notify::new());
        let server = Arc::new(connect(outside, is_h2, self.buffers, &beside, &closed).await.map_err(io::Error::other)?);
        let exchange = Arc::new(self);
        let own = Arc::clone(&exchange);
        let service = service_fn({
            let (server, beside) = (Arc::clone(&server), beside.clone());
            move |request| {
                let (exchange, server, beside) = (Arc::clone(&exchange), Arc::clone(&server), beside.clone());
                async move { exchange.pass(request, &server, &beside).await }
            }
        });
        let served = if is_h2 {
            let mut builder = server::http2::Builder::new(beside);
            builder.timer(TokioTimer::new()).auto_date_header(false).max_concurrent_streams(MOST_REQUESTS);
            builder.max_header_list_size(HEAD_BYTES).max_send_buf_size(WAITING);
            builder.initial_stream_window_size(STREAM_IN).initial_connection_window_size(CONNECTION_IN);
            builder.keep_alive_interval(PING).keep_alive_timeout(PONG);
            let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(inside), service));
            // An answer that has come is passed on before its end is.
            tokio::select! {
                biased;
                served = &mut serving => served,
                () = closed.notified() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        } else {
            let mut builder = server::http1::Builder::new();
            builder.timer(TokioTimer::new()).auto_date_header(false).header_read_timeout(HEAD);
            builder.max_buf_size(own.buffers.request).preserve_header_case(true).half_close(O::ENDS_EARLY);
            let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(inside), service).with_upgrades());
            // An answer that has come is passed on before its end is.
            tokio::select! {
                biased;
                served = &mut serving => served,
                () = closed.notified() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        };
        match served {
            Err(error) if error.is_parse() => {
                own.overseer.tell(NetworkEvent::Refused, format!("an HTTP request that cannot be read: {error}"))
            }
            // The next request did not come.
            Err(error) if error.is_timeout() || has_left(&error) => {}
            Err(error) => return Err(io::Error::other(error)),
            Ok(()) => {}
        }
        // Without requests to come the server's connection ends; what was made of others goes on until its own end.
        drop(server);
        tasks.ended().await;
        Ok(())
    }

    async fn pass(self: Arc<Self>, mut request: Request<Incoming>, server: &Server, beside: &Beside) -> io::Result<Response<Body>> {
        if let Err(Objection { status, reason, said }) = self.overseer.oversee(&mut request) {
            if self.refused.fetch_add(1, Ordering::Relaxed) >= MOST_REFUSED {
                return Err(io::Error::other(format!("{MOST_REFUSED} requests of this connection were refused")));
            }
            let response = told(status, said.unwrap_or(&reason));
            self.overseer.tell(NetworkEvent::Refused, reason);
            return Ok(response);
        }
        if matches!(server, Server::H1(_)) {
            no_other_http(request.headers_mut());
        }
        // Who is inside has been told to go on when its body is wanted; and the server is sent it.
        request.headers_mut().remove(EXPECT);
        let is_connect = request.method() == Method::CONNECT;
        // Over HTTP/2 there is none.
        let wanted = (is_connect || request.headers().contains_key(UPGRADE)).then(|| upgrade::on(&mut request));
        let mut response = match server {
            Server::H1(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await.map_err(io::Error::other)?;
                sender.send_request(request).await.map_err(io::Error::other)?
            }
            Server::H2(sender) => {
                let mut sender = sender.clone();
                sender.ready().await.map_err(io::Error::other)?;
                sender.send_request(request).await.map_err(io::Error::other)?
            }
        };
        // Both say how long it is: the former counts (RFC 9112, 6.3), and is what was gone by.
        if response.headers().contains_key(TRANSFER_ENCODING) {
            response.headers_mut().remove(CONTENT_LENGTH);
        }
        self.overseer.see_answer(&mut response);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS || (is_connect && response.status().is_success()) {
            let inside = wanted.ok_or_else(|| io::Error::other("the server goes over to another protocol, which nobody asked for"))?;
            let outside = upgrade::on(&mut response);
            let exchange = Arc::clone(&self);
            beside.spawn(relay(inside, outside, move |shown: &Shown| exchange.overseer.may_follow(shown)));
        }
        Ok(response.map(BodyExt::boxed))
    }
}

/// Speaks with the server. `closed` is told when that is over.
async fn connect(outside: Connection, is_h2: bool, buffers: Buffers, beside: &Beside, closed: &Arc<Notify>) -> hyper::Result<Server> {
    let outside = TokioIo::new(outside);
    let closed = Arc::clone(closed);
    if is_h2 {
        let mut builder = client::http2::Builder::new(beside.clone());
        builder.timer(TokioTimer::new()).max_send_buf_size(WAITING).max_header_list_size(HEAD_BYTES);
        builder.initial_stream_window_size(STREAM_OUT).initial_connection_window_size(CONNECTION_OUT);
        let (sender, connection) = builder.handshake(outside).await?;
        beside.spawn(async move {
            // Whoever waits for an answer is told the same.
            let _ = connection.await;
            closed.notify_one();
        });
        return Ok(Server::H2(sender));
    }
    let mut builder = client::http1::Builder::new();
    builder.max_buf_size(buffers.answer).preserve_header_case(true);
    // As browsers take them.
    builder.allow_spaces_after_header_name_in_responses(true).allow_obsolete_multiline_headers_in_responses(true);
    builder.ignore_invalid_headers_in_responses(true);
    let (sender, connection) = builder.handshake(outside).await?;
    beside.spawn(async move {
        let _ = connection.with_upgrades().await;
        closed.notify_one();
    });
    Ok(Server::H1(Mutex::new(sender)))
}

/// Whether it is only that the client did not wait for the last words. Errors of the server's side are not of this kind.
fn has_left(error: &hyper::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    let error = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    error.is_some_and(|error| matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected))
}

/// Passes everything on of what is HTTP no more.
///
/// A server that takes a request to be connected through it for any other goes on with HTTP, and who is inside must not.
async fn relay(inside: OnUpgrade, outside: OnUpgrade, judge: impl FnMut(&Shown) -> bool + Unpin) {
    if let (Ok(inside), Ok(outside)) = (inside.await, outside.await) {
        let (reader, writer) = tokio::io::split(TokioIo::new(inside));
        let mut inside = tokio::io::join(Beginning::new(reader, judge), writer);
        // Whoever is inside sees that it is broken off.
        let _ = tokio::io::copy_bidirectional(&mut inside, &mut TokioIo::new(outside)).await;
    }
}

/// The hosts that a request names: by its target and by its header.
///
/// # Errors
/// When there are several headers, or one that names none, or a user with it: servers could understand that in more ways than one.
pub(super) fn named(uri: &Uri, headers: &HeaderMap) -> Result<Vec<Authority>, Objection> {
    let bad = |reason: &str| Objection::of(StatusCode::BAD_REQUEST, reason.to_owned());
    let mut named: Vec<Authority> = uri.authority().cloned().into_iter().collect();
    let mut hosts = headers.get_all(HOST).iter();
    if let Some(host) = hosts.next() {
        named.push(Authority::try_from(host.as_bytes()).map_err(|_| bad("an HTTP request for a host that is none"))?);
    }
    if hosts.next().is_some() {
        return Err(bad("an HTTP request for several hosts"));
    }
    if named.iter().any(|authority| authority.as_str().contains('@')) {
        return Err(bad("an HTTP request for a host with a user"));
    }
    Ok(named)
}

/// What would go over to another protocol that carries requests is kept in this one.
fn no_other_http(headers: &mut HeaderMap) {
    /// Those that carry none; the last is Docker's.
    const OTHERS: [&[u8]; 2] = [b"websocket", b"tcp"];
    let carries_none = |value: &HeaderValue| OTHERS.iter().any(|other| value.as_bytes().eq_ignore_ascii_case(other));
    if !headers.contains_key(UPGRADE) || headers.get_all(UPGRADE).iter().all(carries_none) {
        return;
    }
    headers.remove(UPGRADE);
    headers.remove(HeaderName::from_static("http2-settings"));
    let rest = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let rest: Vec<&str> = rest
        .map(str::trim)
        .filter(|token| !token.eq_ignore_ascii_case("upgrade") && !token.eq_ignore_ascii_case("http2-settings") && !token.is_empty())
        .collect();
    let rest = HeaderValue::try_from(rest.join(", "));
    headers.remove(CONNECTION);
    if let Ok(rest) = rest
        && !rest.is_empty()
    {
        headers.insert(CONNECTION, rest);
    }
}

/// An answer of this host's own.
fn told(status: StatusCode, reason: &str) -> Response<Body> {
    let body = Full::new(Bytes::from(format!("sandbar: {reason}\n"))).map_err(|never| match never {});
    let mut response = Response::new(body.boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests;
