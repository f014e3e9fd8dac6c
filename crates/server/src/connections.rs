use std::{io, time::Duration};

use axum::Router;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::server::TlsStream;

use crate::certificate::Certificate;

/// How long a client may take to say what it wants, and before that to agree upon the keys.
const WORDS: Duration = Duration::from_secs(30);

/// The connections of a server: those that are served, and before them those that still agree upon keys.
pub(crate) struct Connections {
    certificate: Option<Certificate>,
    server: Builder<TokioExecutor>,
    service: TowerToHyperService<Router>,
    greeting: JoinSet<io::Result<TlsStream<TcpStream>>>,
    open: GracefulShutdown,
}

impl Connections {
    pub(crate) fn new(router: Router, certificate: Option<Certificate>) -> Self {
        let mut server = Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(WORDS);
        Self { certificate, server, service: TowerToHyperService::new(router), greeting: JoinSet::new(), open: GracefulShutdown::new() }
    }

    /// Takes a new one.
    pub(crate) fn take(&mut self, stream: TcpStream) {
        // Words of a terminal are small, and each is waited for.
        let _ = stream.set_nodelay(true);
        match &self.certificate {
            None => self.serve(stream),
            Some(certificate) => {
                let agreed = timeout(WORDS, certificate.acceptor().accept(stream));
                self.greeting.spawn(async move { agreed.await? });
            }
        }
    }

    /// Goes on with the next one that has agreed upon keys. May be dropped at any time.
    pub(crate) async fn greet(&mut self) {
        match self.greeting.join_next().await {
            Some(Ok(Ok(stream))) => self.serve(stream),
            Some(Ok(Err(error))) => tracing::debug!(%error, "a client does not speak TLS as the server does"),
            Some(Err(error)) => tracing::error!(%error, "the beginning of a connection failed by a defect"),
            None => std::future::pending().await,
        }
    }

    fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let connection = self.server.serve_connection_with_upgrades(TokioIo::new(stream), self.service.clone()).into_owned();
        let connection = self.open.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &*error, "a connection broke");
            }
        });
    }

    /// Lets requests that are under way come to their ends. What is not done within `patience` is cut off.
    pub(crate) async fn close(self, patience: Duration) {
        drop(self.greeting);
        let _ = timeout(patience, self.open.shutdown()).await;
    }
}
