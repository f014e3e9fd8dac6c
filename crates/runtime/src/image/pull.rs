//! An image from a registry: documents first, then the layers that are not here, side by side.

use std::{fs, fs::File, sync::Arc, time::Duration};

use sandbar_core::{Error, ErrorKind, Result};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    Digest, ImageName, Progress, ProgressCallback, Stage, download,
    layer::{Expected, Layers},
    layout::paired,
    lock::FileLock,
    manifest::{self, Blob, Manifest},
    registry::{OPERATION, Registry, RegistryOptions},
    store::Finished,
};

/// Layers fetched at once. More connections do not make one line faster.
const AT_ONCE: usize = 3;

/// Fetches an image. `added` gets the layers that were not in the store before, also when it fails.
pub(super) async fn pull(
    layers: &Layers,
    name: &ImageName,
    options: &RegistryOptions,
    progress: ProgressCallback,
    added: &mut Vec<Digest>,
) -> Result<Finished> {
    if name.registry().is_none() {
        return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "the name says no registry")
            .with("image", name)
            .with_hint(format!("write REGISTRY/{name}, for example localhost:5000/{name}")));
    }
    let registry = Arc::new(Registry::new(name, options)?);
    let (mut text, mut digest) = registry.manifest().await?;
    if let Some(expected) = name.digest() {
        expected.expect(OPERATION, "manifest", digest)?;
    }
    let mut list = None;
    let mut parsed = Manifest::parse(&text)?;
    if let Manifest::List(candidates) = &parsed {
        list = Some(digest);
        digest = manifest::choose(candidates)?.blob.digest;
        text = registry.manifest_by(&digest).await?;
        parsed = Manifest::parse(&text)?;
    }
    let Manifest::Image { config, layers: blobs } = parsed else {
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, "a list of manifests within a list of manifests").with("image", name));
    };
    let config = document(layers, &registry, &config).await?;
    let mut wanted: Vec<(Blob, Digest)> = Vec::new();
    for (blob, diff_id) in blobs.iter().cloned().zip(paired(&config, blobs.len())?) {
        if !wanted.iter().any(|(_, known)| *known == diff_id) {
            wanted.push((blob, diff_id));
        }
    }
    Pulling { layers, registry, progress, added }.run(wanted).await?;
    Ok(Finished { config, manifest: Some((digest, text)), list, names: vec![name.key()], claimed: Vec::new(), origin: name.to_string() })
}

/// Whether a failed addition keeps nothing of what it brought: the image is bad, or the disk is full. After anything else the
/// finished parts are what the next try need not fetch.
pub(super) fn leaves_nothing(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::ResourceExhausted)
}

/// The configuration, from the store if it is there: then a second pull asks for the manifest alone.
async fn document(layers: &Layers, registry: &Registry, blob: &Blob) -> Result<Vec<u8>> {
    let known = fs::read(layers.paths.blob(&blob.digest)).ok();
    match known.filter(|text| Digest::of(text) == blob.digest) {
        Some(text) => Ok(text),
        None => registry.blob(blob).await,
    }
}

struct Pulling<'a> {
    layers: &'a Layers,
    registry: Arc<Registry>,
    progress: ProgressCallback,
    added: &'a mut Vec<Digest>,
}

/// A layer whose bytes are here, and the locks that keep others from making it as well.
struct Fetched {
    blob: Blob,
    diff_id: Digest,
    /// `None` if another process made it while we waited for its lock.
    file: Option<File>,
    locks: [Arc<FileLock>; 2],
}

impl Pulling<'_> {
    async fn run(self, wanted: Vec<(Blob, Digest)>) -> Result<()> {
        let blobs: Vec<_> = wanted.iter().map(|(blob, _)| blob.digest).collect();
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut fetching = JoinSet::new();
        let mut unpacking = JoinSet::new();
        for (blob, diff_id) in wanted {
            if self.layers.has(&diff_id) {
                self.report(&blob, Stage::Exists, blob.size);
                continue;
            }
            self.report(&blob, Stage::Waiting, 0);
            let (layers, registry, progress) = (self.layers.clone(), self.registry.clone(), self.progress.clone());
            let permits = permits.clone();
            fetching.spawn(async move {
                let _permit = permits.acquire_owned().await;
                fetch(&layers, &registry, &progress, blob, diff_id).await
            });
        }
        let mut first_error = None;
        loop {
            let done = tokio::select! {
                Some(fetched) = fetching.join_next() => match fetched {
                    Ok(Ok(Fetched { blob, diff_id, file: Some(file), locks })) => {
                        self.report(&blob, Stage::Unpacking, blob.size);
                        let layers = self.layers.clone();
                        unpacking.spawn_blocking(move || unpack(&layers, &blob, diff_id, file, locks).map(|()| (blob, diff_id)));
                        Ok(())
                    }
                    Ok(Ok(Fetched { blob, .. })) => {
                        self.report(&blob, Stage::Exists, blob.size);
                        Ok(())
                    }
                    Ok(Err(error)) => Err(error),
                    Err(error) => Err(Error::new(ErrorKind::Internal, OPERATION, "fetching a layer ended badly").with_source(error)),
                },
                Some(unpacked) = unpacking.join_next() => match unpacked {
                    Ok(Ok((blob, diff_id))) => {
                        self.added.push(diff_id);
                        self.report(&blob, Stage::Done, blob.size);
                        Ok(())
                    }
                    Ok(Err(error)) => Err(error),
                    Err(error) => Err(Error::new(ErrorKind::Internal, OPERATION, "unpacking a layer ended badly").with_source(error)),
                },
                else => break,
            };
            if let Err(error) = done
                && first_error.is_none()
            {
                first_error = Some(error);
                // What is being unpacked ends by itself, and soon; nothing is left behind our back.
                fetching.shutdown().await;
            }
        }
        match first_error {
            None => Ok(()),
            Some(error) => {
                if leaves_nothing(&error) {
                    self.discard(&blobs).await;
                }
                Err(error)
            }
        }
    }

    /// Removes what was fetched of layers whose turn did not come, unless somebody else fetches them now.
    async fn discard(&self, blobs: &[Digest]) {
        // Our own writers let go of their locks as soon as they have written what was queued; others may take minutes.
        let deadline = Instant::now() + Duration::from_secs(2);
        for blob in blobs {
            let paths = &self.layers.paths;
            if let Ok(Ok(lock)) = timeout_at(deadline, FileLock::of_work(paths.download_lock(blob))).await {
                let _ = fs::remove_file(paths.partial(blob));
                drop(lock);
            }
        }
    }

    fn report(&self, blob: &Blob, stage: Stage, done: u64) {
        (self.progress)(Progress { layer: blob.digest, stage, done, total: blob.size });
    }
}

async fn fetch(layers: &Layers, registry: &Registry, progress: &ProgressCallback, blob: Blob, diff_id: Digest) -> Result<Fetched> {
    let lock = Arc::new(FileLock::of_work(layers.paths.layer_lock(&diff_id)).await?);
    if layers.has(&diff_id) {
        return Ok(Fetched { blob, diff_id, file: None, locks: [lock.clone(), lock] });
    }
    let locks = [lock, Arc::new(FileLock::of_work(layers.paths.download_lock(&blob.digest)).await?)];
    let (layer, total) = (blob.digest, blob.size);
    let report = |done| progress(Progress { layer, stage: Stage::Fetching, done, total });
    let file = download::fetch(registry, layers, &blob, &locks[1], &report).await?;
    Ok(Fetched { blob, diff_id, file: Some(file), locks })
}

fn unpack(layers: &Layers, blob: &Blob, diff_id: Digest, file: File, locks: [Arc<FileLock>; 2]) -> Result<()> {
    let unpacked = layers.add(file, blob.size, Some(Expected { diff_id, blob: None }));
    // Done or refused: the bytes have served.
    let _ = fs::remove_file(layers.paths.partial(&blob.digest));
    drop(locks);
    unpacked.map(drop).map_err(|error| error.with("layer", blob.digest))
}
