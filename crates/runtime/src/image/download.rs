//! One layer's bytes, fetched into a file that outlives the connection, the try, and this process.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    path::PathBuf,
    sync::Arc,
};

use oci_client::errors::OciDistributionError;
use sandbar_core::{Context as _, Error, ErrorKind, Result};
use tokio::{io::AsyncReadExt as _, sync::mpsc};
use tokio_util::io::StreamReader;

use super::{
    digest::Hasher,
    layer::Layers,
    lock::FileLock,
    manifest::Blob,
    registry::{self, OPERATION, Registry},
    store::blocking,
};

/// Bytes read at a time, and how many such pieces may wait for the disk.
const PIECE: usize = 128 * 1024;
const QUEUE: usize = 16;

/// However well it goes on in between: a connection that breaks this often is not worth more.
const MOST_TRIES: u32 = 50;

/// Fetches a blob, from where an earlier try or pull stopped, and verifies it. The file is at its beginning.
///
/// After a network error the bytes stay for the next pull; after any other
/// nothing is left.
pub(super) async fn fetch(
    registry: &Registry,
    layers: &Layers,
    blob: &Blob,
    lock: &Arc<FileLock>,
    progress: &(dyn Fn(u64) + Send + Sync),
) -> Result<File> {
    if blob.size > layers.limits.blob_bytes {
        let message = format!("a layer is larger than {} bytes", layers.limits.blob_bytes);
        return Err(Error::new(ErrorKind::ResourceExhausted, OPERATION, message).with("layer", blob.digest).with("size", blob.size));
    }
    let path = layers.paths.partial(&blob.digest);
    let fetched = Fetching { registry, blob, lock, progress, path: path.clone() }.run().await;
    if let Err(error) = &fetched
        && !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut)
    {
        let _ = fs::remove_file(&path);
    }
    fetched
}

struct Fetching<'a> {
    registry: &'a Registry,
    blob: &'a Blob,
    /// The download's lock.
    lock: &'a Arc<FileLock>,
    progress: &'a (dyn Fn(u64) + Send + Sync),
    path: PathBuf,
}

/// What is there, and the digest of it so far.
struct Partial {
    file: File,
    hasher: Hasher,
    length: u64,
}

/// Why a try ended early.
enum Broken {
    /// The network or the registry; what came before it is kept.
    Connection(OciDistributionError),
    /// Anything that another try would not change.
    Final(Error),
}

impl Fetching<'_> {
    async fn run(&self) -> Result<File> {
        let mut partial = self.open().await?;
        let mut resumed = partial.length > 0;
        (self.progress)(partial.length);
        let (mut failed, mut tries) = (0, 0);
        loop {
            let before = partial.length;
            let outcome;
            (partial, outcome) = self.attempt(partial).await?;
            match outcome {
                Ok(()) if partial.length == self.blob.size => match self.verify(partial).await? {
                    Ok(file) => return Ok(file),
                    // Bytes of long ago may be those of another registry, or of a disk that lost power.
                    Err(fresh) if resumed => {
                        resumed = false;
                        partial = fresh;
                        continue;
                    }
                    Err(_) => return Err(self.corrupt("a layer is not what its digest says")),
                },
                Ok(()) => return Err(self.corrupt("a layer is shorter than its manifest says")),
                Err(Broken::Final(error)) => return Err(error),
                Err(Broken::Connection(error)) => {
                    // Going on is success; only tries that bring nothing count as failures in a row.
                    failed = if partial.length > before { 1 } else { failed + 1 };
                    tries += 1;
                    if !registry::is_transient(&error) || failed >= self.registry.options.tries || tries >= MOST_TRIES {
                        let explained = self.registry.explain(error).with("layer", self.blob.digest).with("tries", tries);
                        return Err(explained.with_hint("pull again to go on where it stopped"));
                    }
                    tracing::debug!(layer = %self.blob.digest, at = partial.length, failed, "trying again: {error}");
                    resumed |= partial.length > 0;
                    tokio::time::sleep(registry::pause(failed)).await;
                }
            }
        }
    }

    /// One connection's worth of bytes. The disk and the digest have a thread of their own, so that they keep nobody
    /// from reading the network.
    async fn attempt(&self, partial: Partial) -> Result<(Partial, Result<(), Broken>)> {
        if partial.length == self.blob.size {
            return Ok((partial, Ok(())));
        }
        let (stream, offset) = match self.registry.stream(self.blob, partial.length).await {
            Ok(opened) => opened,
            Err(error) => return Ok((partial, Err(Broken::Connection(error)))),
        };
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(QUEUE);
        let (path, lock) = (self.path.clone(), self.lock.clone());
        let writing = blocking(move || {
            // When this future is dropped the thread still writes what is queued; until then nobody else shall.
            let _lock = lock;
            let mut partial = partial;
            let writing = || format!("cannot write {}", path.display());
            if offset == 0 {
                partial.restart().context(OPERATION, writing)?;
            }
            while let Some(piece) = receiver.blocking_recv() {
                partial.append(&piece).context(OPERATION, writing)?;
            }
            Ok(partial)
        });
        let reading = async {
            // Owned here, so that the writer ends when reading does.
            let sender = sender;
            let mut stream = StreamReader::new(stream);
            let mut at = offset;
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                match stream.read_buf(&mut piece).await {
                    Ok(0) => return Ok(()),
                    // The client library compares digests as well, but cannot for a resumed blob: ours decides.
                    Err(error) if registry::is_digest_error(&error) => return Ok(()),
                    Err(error) => return Err(Broken::Connection(error.into())),
                    Ok(count) => at += count as u64,
                }
                if at > self.blob.size {
                    return Err(Broken::Final(self.corrupt("a layer is longer than its manifest says")));
                }
                if sender.send(piece).await.is_err() {
                    // The writer has ended, and says why.
                    return Ok(());
                }
                (self.progress)(at);
            }
        };
        let (partial, outcome) = tokio::join!(writing, reading);
        Ok((partial?, outcome))
    }

    /// What an earlier pull has left, with its digest.
    async fn open(&self) -> Result<Partial> {
        let (path, size) = (self.path.clone(), self.blob.size);
        blocking(move || {
            let reading = || format!("cannot read {}", path.display());
            let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).context(OPERATION, reading)?;
            let mut partial = Partial { file, hasher: Hasher::default(), length: 0 };
            let mut buffer = vec![0; PIECE];
            loop {
                let count = partial.file.read(&mut buffer).context(OPERATION, reading)?;
                if count == 0 {
                    break;
                }
                partial.hasher.update(&buffer[..count]);
                partial.length += count as u64;
            }
            if partial.length > size {
                partial.restart().context(OPERATION, reading)?;
            }
            Ok(partial)
        })
        .await
    }

    /// The complete file at its beginning, or an empty one to start again with.
    async fn verify(&self, partial: Partial) -> Result<Result<File, Partial>> {
        let (expected, path) = (self.blob.digest, self.path.clone());
        blocking(move || {
            let rewinding = || format!("cannot read {}", path.display());
            let mut partial = partial;
            if partial.hasher.clone().finish() == expected {
                partial.file.rewind().context(OPERATION, rewinding)?;
                return Ok(Ok(partial.file));
            }
            partial.restart().context(OPERATION, rewinding)?;
            Ok(Err(partial))
        })
        .await
    }

    fn corrupt(&self, message: &str) -> Error {
        Error::new(ErrorKind::Corrupt, OPERATION, message).with("layer", self.blob.digest).with("size", self.blob.size)
    }
}

impl Partial {
    fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        (self.hasher, self.length) = (Hasher::default(), 0);
        Ok(())
    }

    fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.hasher.update(piece);
        self.length += piece.len() as u64;
        Ok(())
    }
}
