use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{CONNECTION, CONTENT_TYPE, EXPECT, HOST, HeaderName, UPGRADE},
    uri::Authority,
};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn as client,
    ext::ReasonPhrase,
    server::conn as server,
    service::service_fn,
    upgrade::{self, OnUpgrade},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sandbar_core::{Connection, DomainName};
use tokio::sync::{Mutex as AsyncMutex, Notify};

use super::{
    super::log::NetworkEvent,
    interception::Tell,
    keyring::Keyring,
    substitution::{restore, restored, substitute},
    tasks::{Beside, Tasks},
};

/// How long the head of a request may take, from the end of the one before: browsers and servers close what idles after one to five minutes.
const HEAD: Duration = Duration::from_secs(60);
/// Bytes of a head, and of what is read ahead, over HTTP/1.
const BUFFER: usize = 64 << 10;
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

/// Requests to one host, and its answers, on one connection.
pub(super) struct Exchange {
    keyring: Arc<Keyring>,
    host: DomainName,
    tell: Tell,
    told: Mutex<BTreeSet<(NetworkEvent, String)>>,
}

/// Where requests go.
enum Server {
    H1(AsyncMutex<client::http1::SendRequest<Incoming>>),
    H2(client::http2::SendRequest<Incoming>),
}

/// Why a request goes no further.
struct Objection {
    status: StatusCode,
    event: NetworkEvent,
    reason: String,
}

impl Exchange {
    pub(super) fn new(keyring: Arc<Keyring>, host: DomainName, tell: Tell) -> Self {
        Self { keyring, host, tell, told: Mutex::default() }
    }

    /// Passes requests and answers on, until both sides have ended. Both speak HTTP/2, or neither does.
    pub(super) async fn run(self, inside: Connection, outside: Connection, is_h2: bool) -> io::Result<()> {
        let tasks = Tasks::default();
        let beside = tasks.beside();
        let closed = Arc::new(Notify::new());
        let server = Arc::new(connect(outside, is_h2, &beside, &closed).await.map_err(io::Error::other)?);
        let exchange = Arc::new(self);
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
            tokio::select! {
                served = &mut serving => served,
                () = closed.notified() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        } else {
            let mut builder = server::http1::Builder::new();
            builder.timer(TokioTimer::new()).auto_date_header(false).header_read_timeout(HEAD);
            builder.max_buf_size(BUFFER).preserve_header_case(true);
            let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(inside), service).with_upgrades());
            tokio::select! {
                served = &mut serving => served,
                () = closed.notified() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        };
        if let Err(error) = served
            && !has_left(&error)
        {
            return Err(io::Error::other(error));
        }
        // Without requests to come the server's connection ends; what was made of others goes on until its own end.
        drop(server);
        tasks.ended().await;
        Ok(())
    }

    async fn pass(&self, mut request: Request<Incoming>, server: &Server, beside: &Beside) -> io::Result<Response<Body>> {
        let is_h1 = matches!(server, Server::H1(_));
        if let Err(Objection { status, event, reason }) = self.prepare(&mut request, is_h1) {
            // Why a secret is gone is for this host to know.
            let said = if status == StatusCode::BAD_GATEWAY { "a secret cannot be had" } else { &reason };
            let response = told(status, said);
            (self.tell)(event, reason);
            return Ok(response);
        }
        // Over HTTP/2 there is none.
        let wanted = request.headers().contains_key(UPGRADE).then(|| upgrade::on(&mut request));
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
        self.conceal(&mut response);
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let inside = wanted.ok_or_else(|| io::Error::other("the server goes over to another protocol, which nobody asked for"))?;
            let outside = upgrade::on(&mut response);
            beside.spawn(relay(inside, outside));
        }
        Ok(response.map(BodyExt::boxed))
    }

    /// Makes a request one that may go to the server: to its host alone, with the secrets put in.
    fn prepare(&self, request: &mut Request<Incoming>, is_h1: bool) -> Result<(), Objection> {
        if request.method() == Method::CONNECT {
            return Err(Objection::refused(StatusCode::METHOD_NOT_ALLOWED, "a request to be connected through a secret's host".to_owned()));
        }
        // It asks for what was sent, secrets and all.
        if request.method() == Method::TRACE {
            return Err(Objection::refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "a request to be told what was sent to a secret's host".to_owned(),
            ));
        }
        self.require_host(request.uri(), request.headers())?;
        let text = request.uri().to_string();
        for name in self.keyring.found_in(&text) {
            self.tell_once(
                NetworkEvent::Leak,
                format!("the placeholder of {name} is in the address of a request, where it goes out as it is"),
            );
        }
        if is_h1 {
            to_origin(request, &self.host)?;
            only_web_sockets(request.headers_mut());
        }
        // Who is inside has been told to go on when its body is wanted; and the server is sent it.
        request.headers_mut().remove(EXPECT);
        let found = substitute(request.headers_mut(), &self.keyring, &self.host).map_err(|error| Objection {
            status: StatusCode::BAD_GATEWAY,
            event: NetworkEvent::Refused,
            reason: error.chain(),
        })?;
        for name in found.used {
            self.tell_once(NetworkEvent::Secret, format!("the secret {name} is put in"));
        }
        for name in found.foreign {
            self.tell_once(NetworkEvent::Leak, format!("the placeholder of {name} goes out as it is: it is not for this host"));
        }
        Ok(())
    }

    /// Takes secrets out of what stands before an answer.
    fn conceal(&self, response: &mut Response<Incoming>) {
        let mut found = restore(response.headers_mut(), &self.keyring, &self.host);
        if let Some(reason) = response.extensions().get::<ReasonPhrase>() {
            let said = restored(reason.as_bytes(), &self.keyring, &self.host, &mut found).is_some();
            if said {
                response.extensions_mut().remove::<ReasonPhrase>();
            }
        }
        for name in found {
            self.tell_once(NetworkEvent::Leak, format!("the secret {name} is in the head of an answer, where its placeholder is put back"));
        }
    }

    /// Refuses a request that is for another host by any of the places where one can be named, or that names none.
    fn require_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Objection> {
        let bad = |reason: &str| Objection::refused(StatusCode::BAD_REQUEST, reason.to_owned());
        let mut named: Vec<Authority> = uri.authority().cloned().into_iter().collect();
        let mut hosts = headers.get_all(HOST).iter();
        if let Some(host) = hosts.next() {
            named.push(Authority::try_from(host.as_bytes()).map_err(|_| bad("an HTTP request for a host that is none"))?);
        }
        if hosts.next().is_some() {
            return Err(bad("an HTTP request for several hosts"));
        }
        if named.is_empty() {
            return Err(bad("an HTTP request that names no host"));
        }
        for authority in named {
            if authority.as_str().contains('@') {
                return Err(bad("an HTTP request for a host with a user"));
            }
            if authority.host().parse::<DomainName>().ok().as_ref() != Some(&self.host) {
                let reason = format!("the host of HTTP is {}, and {} was resolved", authority.host(), self.host);
                return Err(Objection::refused(StatusCode::MISDIRECTED_REQUEST, reason));
            }
        }
        Ok(())
    }

    /// Tells something once for a connection.
    fn tell_once(&self, event: NetworkEvent, reason: String) {
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert((event, reason.clone())) {
            (self.tell)(event, reason);
        }
    }
}

impl Objection {
    const fn refused(status: StatusCode, reason: String) -> Self {
        Self { status, event: NetworkEvent::Refused, reason }
    }
}

/// Speaks with the server. `closed` is told when that is over.
async fn connect(outside: Connection, is_h2: bool, beside: &Beside, closed: &Arc<Notify>) -> hyper::Result<Server> {
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
    builder.max_buf_size(BUFFER).preserve_header_case(true);
    let (sender, connection) = builder.handshake(outside).await?;
    beside.spawn(async move {
        let _ = connection.with_upgrades().await;
        closed.notify_one();
    });
    Ok(Server::H1(AsyncMutex::new(sender)))
}

/// Whether it is only that the client did not wait for the last words. Errors of the server's side are not of this kind.
fn has_left(error: &hyper::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    let error = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    error.is_some_and(|error| matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected))
}

/// Passes everything on of what is HTTP no more.
async fn relay(inside: OnUpgrade, outside: OnUpgrade) {
    if let (Ok(inside), Ok(outside)) = (inside.await, outside.await) {
        // Whoever is inside sees that it is broken off.
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(inside), &mut TokioIo::new(outside)).await;
    }
}

/// The host stands in its header alone, as a server expects it that is no proxy.
fn to_origin(request: &mut Request<Incoming>, host: &DomainName) -> Result<(), Objection> {
    let bad = || Objection::refused(StatusCode::BAD_REQUEST, "an HTTP request for what is no path".to_owned());
    if let Some(authority) = request.uri().authority() {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let named = HeaderValue::try_from(authority.as_str()).map_err(|_| bad())?;
        *request.uri_mut() = path.parse().map_err(|_| bad())?;
        request.headers_mut().entry(HOST).or_insert(named);
    } else if !request.headers().contains_key(HOST) {
        request.headers_mut().insert(HOST, HeaderValue::try_from(host.as_str()).map_err(|_| bad())?);
    }
    Ok(())
}

/// What would go over to another protocol that carries requests is kept in this one.
fn only_web_sockets(headers: &mut HeaderMap) {
    let is_web_socket = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    if !headers.contains_key(UPGRADE) || headers.get_all(UPGRADE).iter().all(is_web_socket) {
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
