use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::{body::Incoming, client::conn::http1, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use sandbar_core::{Error, ErrorKind, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use super::{
    address::{Address, Scheme},
    body::{Content, Piece},
    context::Contexts,
    dial::dial,
    problem::{OPERATION, lost, refusal, strange},
    ssh::Login,
};

/// What an answer may take that needs no work.
pub(super) const QUICK: Duration = Duration::from_secs(30);
/// What an answer may take that comes when a sandbox is made, saved or ended: an emulated machine may take minutes.
pub(super) const SLOW: Duration = Duration::from_secs(900);
/// Bytes of an answer that is read whole; a listing of a folder may be long.
const LONGEST: usize = 64 << 20;
/// Bytes of a message over a WebSocket: more than a server sends at once.
const LONGEST_MESSAGE: usize = 16 << 20;
/// Bytes of a piece of what is sent.
const PIECE: usize = 64 << 10;
/// Pieces between whoever reads what is sent and the connection.
const AHEAD: usize = 2;

/// A WebSocket to another sandbar.
pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What is asked of another sandbar.
pub(super) struct Ask {
    method: Method,
    path: String,
    query: String,
    content: Content,
    media_type: Option<&'static str>,
    headers: Vec<(header::HeaderName, String)>,
    /// What the head of the answer may take; what is sent may take as long as it takes when `None`.
    patience: Option<Duration>,
}

impl Ask {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            query: String::new(),
            content: Content::none(),
            media_type: None,
            headers: Vec::new(),
            patience: Some(QUICK),
        }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn post(path: impl Into<String>, body: &Value) -> Self {
        let content = Content::Whole(Some(Bytes::from(body.to_string())));
        Self { content, media_type: Some("application/json"), ..Self::new(Method::POST, path) }
    }

    pub(super) fn put(path: impl Into<String>, body: &Value) -> Self {
        Self { method: Method::PUT, ..Self::post(path, body) }
    }

    pub(super) fn with(mut self, name: &str, value: impl AsRef<str>) -> Self {
        self.query = form_urlencoded::Serializer::new(self.query).append_pair(name, value.as_ref()).finish();
        self
    }

    pub(super) fn header(mut self, name: header::HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(super) fn slow(self) -> Self {
        self.within(SLOW)
    }

    /// With so much time for the head of the answer.
    pub(super) fn within(self, patience: Duration) -> Self {
        Self { patience: Some(patience), ..self }
    }
}

/// The other sandbar's side of every call: one operation is one connection, which nobody waits for afterwards.
pub(super) struct Client {
    pub(super) address: Address,
    contexts: Contexts,
    login: Login,
}

impl Client {
    pub(super) fn new(address: Address, contexts: Contexts, login: Login) -> Self {
        Self { address, contexts, login }
    }

    /// Asks, and reads the answer.
    pub(super) async fn ask<T: DeserializeOwned>(&self, ask: Ask) -> Result<T> {
        let body = whole(self.open(ask).await?).await?;
        serde_json::from_slice(&body).map_err(|error| strange("the answer cannot be understood").with_source(error))
    }

    /// Asks for something to be done.
    pub(super) async fn tell(&self, ask: Ask) -> Result<()> {
        whole(self.open(ask).await?).await.map(drop)
    }

    /// Asks, and leaves the answer to be read as it comes.
    pub(super) async fn open(&self, ask: Ask) -> Result<Response<Incoming>> {
        let answer = self.send(ask).await?;
        if answer.status().is_success() { Ok(answer) } else { Err(told(answer).await) }
    }

    /// Sends what is read from `content` to its end. If it cannot be read, what was sent is not taken for whole.
    pub(super) async fn upload(&self, ask: Ask, media_type: &'static str, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<()> {
        self.send_whole(ask, media_type, content).await.map(drop)
    }

    /// The same, and reads the answer.
    pub(super) async fn send_for<T: DeserializeOwned>(
        &self,
        ask: Ask,
        media_type: &'static str,
        content: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<T> {
        let body = self.send_whole(ask, media_type, content).await?;
        serde_json::from_slice(&body).map_err(|error| strange("the answer cannot be understood").with_source(error))
    }

    async fn send_whole(&self, ask: Ask, media_type: &'static str, content: &mut (dyn AsyncRead + Send + Unpin)) -> Result<Bytes> {
        let (pieces, fed) = mpsc::channel(AHEAD);
        let ask = Ask { content: Content::Fed(fed), media_type: Some(media_type), patience: None, ..ask };
        let feed = async {
            let mut piece = BytesMut::with_capacity(PIECE);
            loop {
                let read = content.read_buf(&mut piece).await;
                match read.map_err(|error| Error::io(OPERATION, "what was to be sent cannot be read", error))? {
                    // Nobody takes it any more: then the answer says why.
                    0 => {
                        let _ = pieces.send(Piece::End).await;
                        return Ok(());
                    }
                    _ if pieces.send(Piece::Data(piece.split().freeze())).await.is_err() => return Ok(()),
                    _ => piece.reserve(PIECE),
                }
            }
        };
        let tell = async { whole(self.open(ask).await?).await };
        tokio::pin!(feed, tell);
        tokio::select! {
            biased;
            answered = &mut tell => answered,
            fed = &mut feed => match fed {
                Ok(()) => tell.await,
                Err(error) => Err(error),
            },
        }
    }

    /// A WebSocket.
    pub(super) async fn socket(&self, ask: Ask) -> Result<Socket> {
        let key = generate_key();
        let ask = ask
            .header(header::CONNECTION, "Upgrade".to_owned())
            .header(header::UPGRADE, "websocket".to_owned())
            .header(header::SEC_WEBSOCKET_VERSION, "13".to_owned())
            .header(header::SEC_WEBSOCKET_KEY, key.clone());
        let answer = self.send(ask).await?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(told(answer).await);
        }
        let accepted =
            answer.headers().get(header::SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| *accept == derive_accept_key(key.as_bytes()));
        if !accepted {
            return Err(strange("what answers there speaks no WebSocket"));
        }
        let upgraded = hyper::upgrade::on(answer).await.map_err(|error| lost("the connection was cut").with_source(error))?;
        let limits = WebSocketConfig::default().max_message_size(Some(LONGEST_MESSAGE)).max_frame_size(Some(LONGEST_MESSAGE));
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(limits)).await)
    }

    async fn send(&self, ask: Ask) -> Result<Response<Incoming>> {
        let credentials = self.contexts.credentials(&self.address)?;
        let stream = dial(&self.address, &credentials, &self.login).await?;
        let cut = |error: hyper::Error| {
            let message = if error.is_parse() { "what answers there speaks no HTTP" } else { "the connection was cut" };
            lost(message).with("host", &self.address.host).with_source(error)
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(cut)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to another sandbar broke");
            }
        });
        let target = if ask.query.is_empty() { ask.path } else { format!("{}?{}", ask.path, ask.query) };
        // Through a login there is no name: what answers is this very host's.
        let host = if self.address.scheme == Scheme::Ssh { "localhost".to_owned() } else { self.address.authority() };
        let mut request = Request::builder().method(ask.method).uri(target).header(header::HOST, host);
        if let Some(key) = credentials.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        if let Some(media_type) = ask.media_type {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        for (name, value) in ask.headers {
            request = request.header(name, value);
        }
        let request = request
            .body(ask.content)
            .map_err(|error| Error::new(ErrorKind::InvalidInput, OPERATION, "the request cannot be sent").with_source(error))?;
        let answer = sender.send_request(request);
        match ask.patience {
            None => answer.await.map_err(cut),
            Some(patience) => match timeout(patience, answer).await {
                Ok(answer) => answer.map_err(cut),
                Err(_) => Err(lost(format!("no answer came within {} s", patience.as_secs())).with("host", &self.address.host)),
            },
        }
    }
}

async fn told(answer: Response<Incoming>) -> Error {
    let status = answer.status();
    match whole(answer).await {
        Ok(body) => refusal(status, &body),
        Err(error) => error,
    }
}

async fn whole(answer: Response<Incoming>) -> Result<Bytes> {
    let body = Limited::new(answer.into_body(), LONGEST).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| lost("the answer was cut off, or is too long").with_source(error))
}
