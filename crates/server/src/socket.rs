use std::{io, os::unix::fs::MetadataExt, path::Path, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use sandbar_core::{Context, Result};
use sandbar_runtime::Runtime;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    time::{Instant, interval},
};
use tokio_util::io::InspectReader;

use crate::Service;

/// What each client is told first: then it knows that it is not only its own end of a tunnel that took the connection.
const GREETING: &[u8] = b"sandbar-ready\n";
/// How often it is looked whether anybody is there, and whether the socket is.
const LOOK: Duration = Duration::from_secs(1);

/// A socket of this user's alone, for [`Service::run_at`].
pub struct OwnSocket {
    listener: UnixListener,
    /// Device and inode, by which it is known that nobody has put another one in its place.
    file: (u64, u64),
}

impl OwnSocket {
    /// Listens at a path, in the place of what was there: whoever listened there before serves those who have come, and ends.
    ///
    /// # Errors
    /// Of the kernel: a path of a socket has at most 107 bytes.
    pub fn bind(path: &Path) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let new = path.with_extension(std::process::id().to_string());
        let bound = || {
            // Of one that was killed here, and had the same process id.
            if let Err(error) = std::fs::remove_file(&new)
                && error.kind() != io::ErrorKind::NotFound
            {
                return Err(error);
            }
            let listener = UnixListener::bind(&new)?;
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
            let file = identity(&new)?;
            std::fs::rename(&new, path)?;
            Ok::<_, io::Error>(Self { listener, file })
        };
        bound().inspect_err(|_| drop(std::fs::remove_file(&new))).context("serve", || format!("cannot listen at {}", path.display()))
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

impl Service {
    /// Serves one client that has shown already that it may, by the way on which it has come.
    ///
    /// Returns when it is gone. What it left running goes on.
    pub async fn run_for(
        runtime: Runtime,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) {
        let (held, gone) = tokio::sync::oneshot::channel::<()>();
        serve(Self::of(runtime, None).router(), reader, writer, held).await;
        let _ = gone.await;
    }

    /// Serves the clients that come to a socket, which are this user's, until there was none for `idle`, or the socket is gone and they are too.
    pub async fn run_at(runtime: Runtime, socket: OwnSocket, path: &Path, idle: Duration) {
        let router = Self::of(runtime, None).router();
        let present = Arc::new(());
        let (mut look, mut since) = (interval(LOOK), Instant::now());
        loop {
            tokio::select! {
                accepted = socket.listener.accept() => {
                    since = Instant::now();
                    match accepted {
                        Ok((client, _)) => drop(tokio::spawn(greet(router.clone(), client, Arc::clone(&present)))),
                        Err(error) => {
                            tracing::warn!(%error, "cannot take a connection");
                            tokio::time::sleep(LOOK).await;
                        }
                    }
                }
                _ = look.tick() => {
                    if Arc::strong_count(&present) > 1 {
                        since = Instant::now();
                    } else if since.elapsed() >= idle {
                        // Only its own: another server may have taken the path by now.
                        if identity(path).is_ok_and(|file| file == socket.file) {
                            let _ = std::fs::remove_file(path);
                        }
                        return;
                    } else if !identity(path).is_ok_and(|file| file == socket.file) {
                        return;
                    }
                }
            }
        }
    }
}

async fn greet(router: Router, mut client: UnixStream, present: Arc<()>) {
    let mine = client.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw());
    if mine && client.write_all(GREETING).await.is_ok() {
        let (reader, writer) = client.into_split();
        serve(router, reader, writer, present).await;
    }
}

/// Serves a connection. One that has become a WebSocket is somebody else's from then on: whoever has it has what is `held`, and drops both in the end.
async fn serve(
    router: Router,
    reader: impl AsyncRead + Send + Unpin + 'static,
    writer: impl AsyncWrite + Send + Unpin + 'static,
    held: impl Send + 'static,
) {
    let reader = InspectReader::new(reader, move |_| {
        let _ = &held;
    });
    let stream = tokio::io::join(reader, writer);
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection broke");
    }
}
