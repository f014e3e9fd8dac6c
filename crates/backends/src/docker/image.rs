//! Images in the engine: the store's layers, loaded once and shared by all sandboxes.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use bollard::{body_try_stream, models::ImageInspect, query_parameters::ImportImageOptions};
use bytes::Bytes;
use futures_util::StreamExt;
use sandbar_core::{Context, Error, ErrorKind, ImageKind, Result, RootSource};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{
    archive::Archive,
    engine::{Engine, QUICK},
    error::{OPERATION, explain, is_missing},
    holes,
    owner::{HOME_LABEL, Home},
};

/// What loading an image may take: gigabytes on a slow disk.
const LOAD: Duration = Duration::from_secs(1800);
/// How much of the archive is under way at once.
const PIECE: usize = 256 << 10;
const PIECES: usize = 8;

/// An image that the engine has.
struct Known {
    reference: String,
    /// Digests of its layers, hexadecimal, the lowest first.
    layers: Vec<String>,
}

/// Gives the name of an image in the engine that is this root. What the engine lacks is loaded: of an image that it knows with another layer on top, that
/// layer alone. Under the home's lock for loading.
///
/// # Errors
/// `NotFound` for a missing layer; those of the engine.
pub(super) async fn ensure(engine: &Engine, home: &Home, root: &RootSource) -> Result<String> {
    let trees: Vec<PathBuf> = root.layers.iter().chain(&root.saved_layers).cloned().collect();
    if trees.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "a container needs an image"));
    }
    let names = names(home, &trees)?;
    let whole = names.last().cloned().unwrap_or_default();
    if let Some(known) = look_up(engine, &whole).await? {
        return Ok(known.reference);
    }
    if root.saved_layers.is_empty()
        && let Some(own) = own_of_engine(engine, root).await?
    {
        return Ok(own.reference);
    }
    let _lock = home.loading().await?;
    let (count, below) = longest_known(engine, root, &names).await?;
    let mut below = below.map(|known| known.layers).unwrap_or_default();
    let mut count = count;
    while count < trees.len() {
        // The image by itself is what the next sandbox begins from, and each checkpoint what its forks do.
        let cut = if count < root.layers.len() { root.layers.len() } else { count + 1 };
        below = match load(engine, home, below, &trees[count..cut], &names[cut - 1]).await {
            // An engine that does not keep layers by themselves wants all of them.
            Err(_) if count > 0 => load(engine, home, Vec::new(), &trees[..cut], &names[cut - 1]).await?,
            loaded => loaded?,
        };
        if cut > root.layers.len() {
            make_sparse(engine, &trees[cut - 1], &names[cut - 1]).await?;
        }
        count = cut;
    }
    Ok(whole)
}

/// Gives the files of a checkpoint's layer their holes back, where the layer is a folder of this host.
async fn make_sparse(engine: &Engine, tree: &Path, name: &str) -> Result<()> {
    if !engine.about().await?.layers_are_overlay || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let driver = inspect(engine, name).await?.and_then(|found| found.graph_driver);
    let Some(upper) = driver.and_then(|driver| driver.data.get("UpperDir").cloned()) else { return Ok(()) };
    let tree = tree.to_owned();
    blocking(move || holes::punch(&tree, Path::new(&upper))).await
}

/// How many of the layers the engine has already, as an image that was loaded before or as one of its own.
async fn longest_known(engine: &Engine, root: &RootSource, names: &[String]) -> Result<(usize, Option<Known>)> {
    for count in (1..=names.len()).rev() {
        if let Some(known) = look_up(engine, &names[count - 1]).await? {
            return Ok((count, Some(known)));
        }
        if count == root.layers.len()
            && let Some(own) = own_of_engine(engine, root).await?
        {
            return Ok((count, Some(own)));
        }
    }
    Ok((0, None))
}

/// The engine's own image of this digest: one that it pulled or built. One with volumes is passed over, since what is written there would
/// not be in the layer.
async fn own_of_engine(engine: &Engine, root: &RootSource) -> Result<Option<Known>> {
    let ImageKind::Layers { digest } = &root.kind else { return Ok(None) };
    let is_id = digest.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !is_id {
        return Ok(None);
    }
    let Some(found) = inspect(engine, digest).await? else { return Ok(None) };
    let has_volumes = found.config.as_ref().and_then(|config| config.volumes.as_ref()).is_some_and(|volumes| !volumes.is_empty());
    Ok(if has_volumes || found.id.as_ref() != Some(digest) { None } else { known(digest, found) })
}

async fn look_up(engine: &Engine, name: &str) -> Result<Option<Known>> {
    Ok(inspect(engine, name).await?.and_then(|found| known(name, found)))
}

fn known(reference: &str, found: ImageInspect) -> Option<Known> {
    let layers = found.root_fs?.layers?;
    let layers = layers.iter().map(|layer| Some(layer.strip_prefix("sha256:")?.to_owned())).collect::<Option<_>>()?;
    Some(Known { reference: reference.to_owned(), layers })
}

async fn inspect(engine: &Engine, name: &str) -> Result<Option<ImageInspect>> {
    let asked = name.to_owned();
    match engine.try_ask("look for an image", QUICK, |client| async move { client.inspect_image(&asked).await }).await? {
        Ok(found) => Ok(Some(found)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(explain(engine.endpoint(), "look for an image", error)),
    }
}

/// The names of the images that each number of these layers is. A layer is known by its folder, which never changes and is never used again.
pub(super) fn names(home: &Home, trees: &[PathBuf]) -> Result<Vec<String>> {
    let mut hasher = Sha256::new();
    let name = |tree: &PathBuf| {
        let found = std::fs::metadata(tree).context(OPERATION, || format!("cannot find the layer {}", tree.display()))?;
        hasher.update(format!("{}\0{}:{}\n", tree.display(), found.dev(), found.ino()));
        let digest = hex::encode(hasher.clone().finalize());
        Ok(format!("{}:{}", home.repository(), &digest[..40]))
    };
    trees.iter().map(name).collect()
}

/// Sends layers to lie upon those that the engine has. Gives the digests of all.
async fn load(engine: &Engine, home: &Home, below: Vec<String>, trees: &[PathBuf], tag: &str) -> Result<Vec<String>> {
    let labels = BTreeMap::from([(HOME_LABEL.to_owned(), home.id().to_owned())]);
    let (tag_of_archive, trees, owned_below) = (tag.to_owned(), trees.to_vec(), below);
    let archive = blocking(move || Archive::new(owned_below, &trees, tag_of_archive, labels)).await?;
    let (sender, mut pieces) = mpsc::channel::<io::Result<Bytes>>(PIECES);
    let writing = tokio::task::spawn_blocking(move || {
        let failed = sender.clone();
        let written = archive.write(Pieces { sender, piece: Vec::with_capacity(PIECE) });
        if let Err(error) = &written {
            // Without a proper end the engine takes the archive for cut.
            let _ = failed.blocking_send(Err(io::Error::other(error.chain())));
        }
        written
    });
    let stream = futures_util::stream::poll_fn(move |context| pieces.poll_recv(context));
    let sent = engine
        .ask("load an image", LOAD, |client| async move {
            let options = ImportImageOptions { quiet: true, ..ImportImageOptions::default() };
            let mut answers = std::pin::pin!(client.import_image(options, body_try_stream(stream), None));
            while let Some(answer) = answers.next().await {
                answer?;
            }
            Ok(())
        })
        .await;
    let written = writing.await.unwrap_or_else(|error| {
        Err(Error::new(ErrorKind::Internal, OPERATION, "the task that sends an image ended early").with_source(error))
    });
    // The engine's refusal is why the writer could not go on.
    sent.and(written)?;
    let loaded = look_up(engine, tag).await?;
    loaded
        .map(|known| known.layers)
        .ok_or_else(|| Error::new(ErrorKind::Internal, OPERATION, "the engine took an image and does not have it").with("image", tag))
}

/// Writes into a channel, a piece at a time.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "the engine takes no more");
        self.sender.blocking_send(Ok(Bytes::from(piece))).map_err(gone)
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}

/// Work on files, elsewhere.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::new(ErrorKind::Internal, OPERATION, "a blocking task ended early").with_source(error)),
    }
}
