use std::{
    pin::pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    Router,
    body::HttpBody,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
    routing::get,
};
use sandbar_runtime::Runtime;
use tokio::{net::TcpListener, sync::watch};

use crate::{
    certificate::Certificate,
    collected::Collected,
    connections::{Connections, PATIENCE, Room},
    document::{self, document},
    feed::Feed,
    guard::{Guard, addressed, authorized},
    idempotency::Creations,
    manual,
    metrics::Metrics,
    problem::Problem,
    requests,
    token::Token,
};

/// How long requests that are under way may take once the server was asked to stop.
const FAREWELL: Duration = Duration::from_secs(10);
/// How long no connection is taken where there is no descriptor or memory for another.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The OpenAPI document, when somebody asks for it: a server for one operation never needs it.
static DOCUMENT: LazyLock<String> = LazyLock::new(|| document().to_pretty_json().unwrap_or_default());

/// What every handler has.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) runtime: Runtime,
    pub(crate) creations: Arc<Creations>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) collected: Collected,
    /// Whether the server stops: what has no end must end then.
    pub(crate) closing: watch::Receiver<bool>,
}

impl App {
    /// The same with the runtime as whoever asks has it.
    pub(crate) fn as_used_by(&self, runtime: Runtime) -> Self {
        Self { runtime, ..self.clone() }
    }
}

/// Says so where a body was refused: what is left of it is not read, so nothing can come after it.
async fn last_of_its_connection(request: Request, next: Next) -> Response {
    let has_body = !request.body().is_end_stream();
    let mut response = next.run(request).await;
    if has_body && (response.status().is_client_error() || response.status().is_server_error()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A runtime, served to whoever has the token, or one of its keys.
pub struct Service {
    runtime: Runtime,
    token: Option<Token>,
    names: Vec<String>,
    certificate: Option<Certificate>,
    patience: Duration,
    closing: watch::Sender<bool>,
}

impl Service {
    /// Serves this runtime.
    pub fn new(runtime: Runtime, token: Token) -> Self {
        Self::of(runtime, Some(token))
    }

    pub(crate) fn of(runtime: Runtime, token: Option<Token>) -> Self {
        Self { runtime, token, names: Vec::new(), certificate: None, patience: PATIENCE, closing: watch::Sender::new(false) }
    }

    /// Answers by this host name too. Addresses and `localhost` are its names anyway.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.names.push(name.into());
        self
    }

    /// Speaks TLS alone, and answers by the names of this certificate too.
    #[must_use]
    pub fn with_certificate(self, certificate: Certificate) -> Self {
        Self { certificate: Some(certificate), ..self }
    }

    /// Gives a client up that acknowledges nothing, and does not answer, for so long; two minutes otherwise. One that answers, and does not read, is
    /// waited for without an end.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Everything that is served.
    pub fn router(self) -> Router {
        let (feed, metrics) = (Arc::new(Feed::new(self.runtime.clone())), Arc::new(Metrics::new()));
        let app = App {
            runtime: self.runtime,
            creations: Arc::default(),
            feed,
            metrics: Arc::clone(&metrics),
            collected: Collected::default(),
            closing: self.closing.subscribe(),
        };
        let guard = Arc::new(Guard::new(self.token, self.names, self.certificate, app.runtime.clone()));
        let (guarded, _) = document::routes().with_state(app).split_for_parts();
        guarded
            .layer(from_fn_with_state(Arc::clone(&guard), authorized))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/openapi.json", get(|| async { ([("content-type", "application/json")], DOCUMENT.as_str()) }))
            .route("/docs", get(manual::read))
            .fallback(|| async {
                Problem::with_status(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path; /docs says what there is")
            })
            .method_not_allowed_fallback(|| async {
                Problem::with_status(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "invalid_input",
                    "this path does not take that method; /docs says which",
                )
            })
            .layer(from_fn_with_state(guard, addressed))
            .layer(from_fn(last_of_its_connection))
            .layer(from_fn_with_state(metrics, requests::told))
    }

    /// Serves until `stop` has come. Then no connection is taken any more, and requests under way may end, for ten seconds; sandboxes live on.
    pub async fn run(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let (certificate, patience, closing) = (self.certificate.clone(), self.patience, self.closing.clone());
        let mut connections = Connections::new(self.router(), certificate, patience);
        let (room, mut stop) = (Room::new(), pin!(stop));
        loop {
            let accepted = tokio::select! {
                accepted = room.next(&listener) => accepted,
                () = connections.greet() => continue,
                () = &mut stop => break,
            };
            match accepted {
                Ok(guest) => connections.take(guest),
                Err(error) => {
                    tracing::warn!(%error, "cannot take a connection");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
        drop(listener);
        closing.send_replace(true);
        connections.close(FAREWELL).await;
    }
}
