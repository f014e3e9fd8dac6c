use std::{io, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sandbar_relay::Patient;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::server::TlsStream;
use tokio_util::io::InspectReader;

use crate::certificate::Certificate;

/// How long a client may take to say what it wants, and before that to agree upon the keys; and how long it may keep a connection on which it says nothing.
const WORDS: Duration = Duration::from_secs(15);
/// Bytes of a request's head, and of what is read and written ahead: strangers have these too, for as long as they may take.
const HEAD: usize = 64 << 10;
/// How long a client that does not answer TCP's questions is taken for one that is there, unless the server is told otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Descriptors that a connection takes at most: its own, that of the sandbox's agent, and what a request opens for a moment.
const EACH: u64 = 3;
/// Descriptors that are left for everything else.
const RESERVED: u64 = 128;
/// Connections at most, where descriptors are no limit.
const MOST: u64 = 1 << 16;

/// Room for connections: what there are descriptors for. A client for whom there is none waits in the kernel's queue.
#[derive(Clone)]
pub(crate) struct Room(Arc<Semaphore>);

/// A client, and the room that it takes.
pub(crate) struct Guest {
    stream: TcpStream,
    seat: OwnedSemaphorePermit,
}

/// The connections of a server: those that are served, and before them those that still agree upon keys.
pub(crate) struct Connections {
    certificate: Option<Certificate>,
    server: Builder,
    service: TowerToHyperService<Router>,
    patience: Duration,
    greeting: JoinSet<io::Result<(TlsStream<Patient>, OwnedSemaphorePermit)>>,
    /// Each connection that is served has a receiver.
    closing: watch::Sender<bool>,
}

impl Room {
    /// As much as this process may have. The soft limit of descriptors is for programs that cannot handle many: it is raised to the hard one.
    pub(crate) fn new() -> Self {
        let most = getrlimit(Resource::Nofile).maximum;
        // Where that is refused, there is less room.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most });
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let connections = (descriptors.saturating_sub(RESERVED) / EACH).clamp(1, MOST);
        Self(Arc::new(Semaphore::new(usize::try_from(connections).unwrap_or(1))))
    }

    /// The next client. May be dropped at any time.
    ///
    /// # Errors
    /// Of the kernel.
    pub(crate) async fn next(&self, listener: &TcpListener) -> io::Result<Guest> {
        let seat = Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)?;
        let (stream, _) = listener.accept().await?;
        Ok(Guest { stream, seat })
    }
}

impl Connections {
    pub(crate) fn new(router: Router, certificate: Option<Certificate>, patience: Duration) -> Self {
        // HTTP/1.1 alone: to find out what else a client may speak would wait for its first words without an end.
        let mut server = Builder::new();
        server.timer(TokioTimer::new()).header_read_timeout(WORDS).max_buf_size(HEAD);
        Self {
            certificate,
            server,
            service: TowerToHyperService::new(router),
            patience,
            greeting: JoinSet::new(),
            closing: watch::Sender::new(false),
        }
    }

    /// Takes a new one.
    pub(crate) fn take(&mut self, Guest { stream, seat }: Guest) {
        // Words of a terminal are small, and each is waited for.
        let _ = stream.set_nodelay(true);
        let stream = Patient::new(stream, self.patience);
        match &self.certificate {
            None => self.serve(stream, seat),
            Some(certificate) => {
                let agreed = timeout(WORDS, certificate.acceptor().accept(stream));
                self.greeting.spawn(async move { Ok((agreed.await??, seat)) });
            }
        }
    }

    /// Goes on with the next one that has agreed upon keys. May be dropped at any time.
    pub(crate) async fn greet(&mut self) {
        match self.greeting.join_next().await {
            Some(Ok(Ok((stream, seat)))) => self.serve(stream, seat),
            Some(Ok(Err(error))) => tracing::debug!(%error, "a client does not speak TLS as the server does"),
            Some(Err(error)) => tracing::error!(%error, "the beginning of a connection failed by a defect"),
            None => std::future::pending().await,
        }
    }

    fn serve(&self, stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, seat: OwnedSemaphorePermit) {
        // Whoever has the connection has its seat, also when it has become a WebSocket.
        let stream = InspectReader::new(stream, move |_| {
            let _ = &seat;
        });
        let connection = self.server.serve_connection(TokioIo::new(stream), self.service.clone()).with_upgrades();
        let mut closing = self.closing.subscribe();
        tokio::spawn(async move {
            let mut connection = pin!(connection);
            let closes = async { closing.wait_for(|closing| *closing).await.map(drop) };
            let ended = tokio::select! {
                ended = &mut connection => ended,
                _ = closes => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }

    /// Lets requests that are under way come to their ends. What is not done within `patience` is cut off.
    pub(crate) async fn close(self, patience: Duration) {
        drop(self.greeting);
        self.closing.send_replace(true);
        let _ = timeout(patience, self.closing.closed()).await;
    }
}
