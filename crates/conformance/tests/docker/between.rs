use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
};

use crate::world::World;

/// A socket before the engine's, which kills the engine when a request of a given number has been passed on. Those that only look at something do not count.
pub struct Between {
    shared: Arc<Shared>,
    folder: TempDir,
}

struct Shared {
    world: Arc<World>,
    /// How many requests are still passed on before the one that kills it; `None` for all of them.
    left: Mutex<Option<usize>>,
    /// The command line of the engine that was killed.
    line: Mutex<Option<Vec<String>>>,
}

impl Between {
    pub fn new(world: &Arc<World>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("docker.sock")).unwrap();
        let shared = Arc::new(Shared { world: Arc::clone(world), left: Mutex::default(), line: Mutex::default() });
        tokio::spawn(Arc::clone(&shared).serve(listener));
        Self { shared, folder }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    /// Kills the engine with the request of this number from now on, from 1, in its hand.
    pub fn kill_at(&self, number: usize) {
        *self.shared.left.lock().unwrap() = Some(number - 1);
    }

    /// The command line of the engine, if it was killed; no more requests kill it.
    pub fn killed(&self) -> Option<Vec<String>> {
        *self.shared.left.lock().unwrap() = None;
        self.shared.line.lock().unwrap().take()
    }
}

impl Shared {
    async fn serve(self: Arc<Self>, listener: UnixListener) {
        while let Ok((client, _)) = listener.accept().await {
            let shared = Arc::clone(&self);
            tokio::spawn(async move {
                // Whoever comes while there is no engine is cut off.
                let Ok(engine) = UnixStream::connect(&shared.world.socket).await else { return };
                let ((from_client, mut to_client), (mut from_engine, to_engine)) = (client.into_split(), engine.into_split());
                let back = async move {
                    let _ = tokio::io::copy(&mut from_engine, &mut to_client).await;
                };
                tokio::join!(shared.pass(from_client, to_engine), back);
            });
        }
    }

    /// Passes requests on. One of those that count comes as a whole: a client writes head and body, which are small, at once.
    async fn pass(&self, mut from: OwnedReadHalf, mut to: impl AsyncWriteExt + Unpin) -> Option<()> {
        let mut chunk = vec![0; 1 << 16];
        loop {
            let count = from.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
            to.write_all(&chunk[..count]).await.ok()?;
            if chunk.starts_with(b"GET ") || chunk.starts_with(b"HEAD ") {
                continue;
            }
            let mut left = self.left.lock().unwrap();
            match *left {
                Some(0) => {
                    *left = None;
                    *self.line.lock().unwrap() = Some(self.world.kill());
                }
                Some(more) => *left = Some(more - 1),
                None => {}
            }
        }
    }
}
