//! The store as its callers see it.

use std::{
    fs::{self, DirBuilder},
    os::unix::fs::DirBuilderExt as _,
    path::Path,
    sync::Arc,
};

use sandbar_core::{Context as _, Error, ErrorKind, ImageKind, Result, RootSource};

use super::{
    Collected, Digest, HOST, ImageLimits, ImageName, ImageSummary, ProgressCallback, Removed, collect,
    config::Config,
    host, import,
    index::{Entry, Index},
    layer::Layers,
    lock::FileLock,
    paths::Paths,
    pull,
    registry::RegistryOptions,
    temporary::{self, TemporaryFolder},
};
use crate::clock;

const OPERATION: &str = "image store";

/// All images of one state folder. Cheap to clone; any number of processes may use one store at once.
///
/// File work is done on the runtime's blocking threads, so every method may be called from anywhere.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(super) layers: Layers,
    registries: Arc<RegistryOptions>,
}

/// While this is held, no layer and no skeleton is removed.
///
/// Hold one from [`ImageStore::resolve`] until the ledger says who uses the root; afterwards the ledger's word, given
/// to [`ImageStore::collect`], keeps it.
#[derive(Debug)]
pub struct Pin {
    _lock: FileLock,
}

/// An image that is complete in the store, apart from its entry in the index.
pub(super) struct Finished {
    pub(super) config: Vec<u8>,
    /// The manifest, and the list of platforms it was chosen from.
    pub(super) manifest: Option<(Digest, Vec<u8>)>,
    pub(super) list: Option<Digest>,
    /// The names that its user gave it; they are taken from other images.
    pub(super) names: Vec<String>,
    /// The names that it says it has. A stranger's archive cannot take the name of an image that is here.
    pub(super) claimed: Vec<String>,
    pub(super) origin: String,
}

impl Finished {
    /// An image of which nothing is known but its configuration.
    pub(super) fn nameless(config: Vec<u8>) -> Self {
        Self { config, manifest: None, list: None, names: Vec::new(), claimed: Vec::new(), origin: String::new() }
    }
}

impl ImageStore {
    /// Opens the store in a state folder, and makes it if there is none. The store is closed to other users: its
    /// layers hold programs with setuid, and as root files of foreign ids.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn open(home: &Path) -> Result<Self> {
        let paths = Paths::new(home.join("images"));
        for folder in [paths.blobs(), paths.layers(), paths.downloads(), paths.locks(), paths.temporary(), paths.host()] {
            if !folder.is_dir() {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&folder)
                    .context(OPERATION, || format!("cannot make {}", folder.display()))?;
            }
        }
        Ok(Self { layers: Layers { paths, limits: ImageLimits::default() }, registries: Arc::default() })
    }

    /// The same store with other limits for what comes in.
    #[must_use]
    pub fn with_limits(mut self, limits: ImageLimits) -> Self {
        self.layers.limits = limits;
        self
    }

    /// The same store with another manner towards registries.
    #[must_use]
    pub fn with_registries(mut self, options: RegistryOptions) -> Self {
        self.registries = Arc::new(options);
        self
    }

    /// The root file system that a reference means: the image `host` for `None` and `host`, else an image by name,
    /// by `NAME@DIGEST`, by id or by a unique beginning of an id (at least four digits, or any with `sha256:`).
    ///
    /// The skeleton of the image `host` is made if there is none, or if the host changed since.
    ///
    /// # Errors
    /// `NotFound`, with a hint how to get the image; `Corrupt` if a part of it is missing.
    pub async fn resolve(&self, reference: Option<&str>) -> Result<RootSource> {
        self.resolve_pinned(reference).await.map(|(root, _)| root)
    }

    /// As [`resolve`](Self::resolve), with everything [kept in place](Self::pin) from before it is looked for.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub async fn resolve_pinned(&self, reference: Option<&str>) -> Result<(RootSource, Pin)> {
        let reference = reference.filter(|reference| *reference != HOST).map(str::to_owned);
        self.blocking(move |store| {
            let pin = store.pin_blocking()?;
            let root = match reference {
                None => host::root(&store.layers.paths)?,
                Some(reference) => store.root(&Index::read(&store.layers.paths)?.find(&reference)?)?,
            };
            Ok((root, pin))
        })
        .await
    }

    /// The root file system of an image that a checkpoint was made on, removed ones included as long as they are
    /// here.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn root_of(&self, kind: &ImageKind) -> Result<RootSource> {
        let kind = kind.clone();
        self.blocking(move |store| match kind {
            ImageKind::Empty => Ok(RootSource::empty()),
            ImageKind::Elsewhere { image } => Ok(RootSource::elsewhere(image)),
            ImageKind::Host { fingerprint } => host::existing(&store.layers.paths, &fingerprint),
            ImageKind::Layers { digest } => {
                let id: Digest = digest.parse()?;
                if !Index::read(&store.layers.paths)?.images.contains_key(&id) {
                    return Err(Error::new(ErrorKind::NotFound, "image", "the image is not here").with("image", id));
                }
                store.root(&id)
            }
        })
        .await
    }

    /// All images, in the order in which they came.
    ///
    /// # Errors
    /// `Corrupt` if the index is damaged. An image whose configuration is, is left out and logged.
    pub async fn list(&self) -> Result<Vec<ImageSummary>> {
        self.blocking(|store| {
            let index = Index::read(&store.layers.paths)?;
            let summaries = index.visible().filter_map(|(id, _)| {
                store.summary(&index, id).inspect_err(|error| tracing::warn!(image = %id, "image left out: {}", error.chain())).ok()
            });
            let mut summaries: Vec<_> = summaries.collect();
            summaries.sort_by_key(|summary| (summary.added_ms, summary.id));
            Ok(summaries)
        })
        .await
    }

    /// Makes an image of a folder, a tar (plain, gzip or zstd), an archive of `docker save`, or an OCI layout (a
    /// folder or a tar of one). Where one of the latter holds several images, `PATH:TAG` says which.
    ///
    /// `name` is the image's name, and taken from another image that had it; without one, it has those that the archive
    /// claims, as far as they are free. Equal content is one image: importing it again only adds the name.
    ///
    /// # Errors
    /// `Corrupt` for damage and for archives that reach outside; `ResourceExhausted` over the limits or on a full
    /// disk; `Unsupported` for another platform's image or an unknown format. Nothing is left then.
    pub async fn import(&self, source: &Path, name: Option<&str>) -> Result<ImageSummary> {
        self.import_from(source, name, None).await
    }

    /// The same, of something that came from elsewhere: `origin` says whence.
    pub(crate) async fn import_from(&self, source: &Path, name: Option<&str>, origin: Option<&'static str>) -> Result<ImageSummary> {
        let name = name.map(new_name).transpose()?;
        let source = source.to_owned();
        self.blocking(move |store| {
            let pin = store.pin_blocking()?;
            let mut added = Vec::new();
            let imported = import::import(&store.layers, &source, name.as_ref(), &mut added);
            let imported = imported.and_then(|mut image| {
                if let Some(origin) = origin {
                    origin.clone_into(&mut image.origin);
                }
                store.finish(image)
            });
            drop(pin);
            if imported.is_err() {
                collect::forget(&store.layers, &added);
            }
            imported
        })
        .await
    }

    /// Fetches an image from a registry: `REGISTRY/REPOSITORY[:TAG][@DIGEST]`. Layers that are here are not fetched
    /// again; an interrupted pull goes on where it stopped.
    ///
    /// `http` is spoken to registries on this machine's loopback only. Credentials are those of `docker login` or
    /// `podman login`, if the files hold them.
    ///
    /// # Errors
    /// `InvalidInput` for a name without a registry; `NotFound`, `PermissionDenied` as the registry says;
    /// `Unavailable` if it does not answer, after a few tries; `Corrupt` and `ResourceExhausted` as for an import.
    pub async fn pull(&self, reference: &str, progress: ProgressCallback) -> Result<ImageSummary> {
        let name = ImageName::parse(reference)?;
        let pin = self.pin().await?;
        let mut added = Vec::new();
        let pulled = pull::pull(&self.layers, &name, &self.registries, progress, &mut added).await;
        let pulled = match pulled {
            Ok(image) => self.blocking(move |store| store.finish(image)).await,
            Err(error) => Err(error),
        };
        drop(pin);
        if let Err(error) = &pulled
            && pull::leaves_nothing(error)
        {
            self.blocking(move |store| {
                collect::forget(&store.layers, &added);
                Ok(())
            })
            .await?;
        }
        pulled
    }

    /// Removes a name, and with the last one the image; by id, the image with all its names. `in_use` tells the roots
    /// that sandboxes and checkpoints need; it is asked while nobody can make new ones. What they need stays on the
    /// disk, without a name, until a later [`collect`](Self::collect).
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for `host`.
    pub async fn remove<InUse>(&self, reference: &str, in_use: InUse) -> Result<Removed>
    where
        InUse: FnOnce() -> Result<Vec<RootSource>> + Send + 'static,
    {
        if reference == HOST {
            return Err(Error::new(ErrorKind::InvalidInput, "image remove", "the image `host` is the host, and cannot be removed"));
        }
        let reference = reference.to_owned();
        self.blocking(move |store| collect::remove(&store.layers, &reference, in_use)).await
    }

    /// Removes everything that nothing needs: layers, removed images, old skeletons, leavings of killed processes,
    /// downloads that nobody resumed for a week.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub async fn collect<InUse>(&self, in_use: InUse) -> Result<Collected>
    where
        InUse: FnOnce() -> Result<Vec<RootSource>> + Send + 'static,
    {
        self.blocking(move |store| collect::collect(&store.layers, in_use)).await
    }

    /// Removes what killed processes left half made, and nothing else; tells how many leavings there were.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub async fn sweep(&self) -> Result<u64> {
        self.blocking(|store| temporary::sweep(&store.layers.paths)).await
    }

    /// Keeps every layer and skeleton in place while the result is held.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub async fn pin(&self) -> Result<Pin> {
        self.blocking(|store| store.pin_blocking()).await
    }

    /// A folder for something on its way into the store; it vanishes with the result, or with the next sweep.
    pub(crate) async fn temporary(&self) -> Result<TemporaryFolder> {
        self.blocking(|store| TemporaryFolder::new(&store.layers.paths)).await
    }

    pub(crate) fn pin_blocking(&self) -> Result<Pin> {
        // A collection holds the lock only while it renames things away.
        Ok(Pin { _lock: FileLock::shared(&self.layers.paths.lock())? })
    }

    fn root(&self, id: &Digest) -> Result<RootSource> {
        let config = read_config(&self.layers.paths, id)?;
        let stack = config.stack();
        if let Some(missing) = stack.iter().find(|diff_id| !self.layers.has(diff_id)) {
            return Err(Error::new(ErrorKind::Corrupt, OPERATION, "a layer of the image is missing")
                .with("image", id)
                .with("layer", missing)
                .with_hint("pull or import the image again"));
        }
        Ok(RootSource {
            kind: ImageKind::Layers { digest: id.to_string() },
            layers: stack.iter().map(|diff_id| self.layers.paths.layer_tree(diff_id)).collect(),
            saved_layers: Vec::new(),
            host: None,
            env: config.env,
            workdir: config.workdir,
            user: config.user,
        })
    }

    fn summary(&self, index: &Index, id: &Digest) -> Result<ImageSummary> {
        let config = read_config(&self.layers.paths, id)?;
        let entry = index.images.get(id).ok_or_else(|| Error::new(ErrorKind::NotFound, OPERATION, "no such image").with("image", id))?;
        let layers = config.stack();
        Ok(ImageSummary {
            id: *id,
            names: index.names_of(id),
            bytes: layers.iter().map(|diff_id| self.layers.weight(diff_id).bytes).sum(),
            layers,
            created: config.created,
            added_ms: entry.added_ms,
            origin: entry.origin.clone(),
            manifest: entry.manifest,
            env: config.env,
            workdir: config.workdir,
            user: config.user,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
        })
    }

    /// Writes an image's documents and its entry in the index, the last of all steps.
    fn finish(&self, image: Finished) -> Result<ImageSummary> {
        let paths = &self.layers.paths;
        let id = Digest::of(&image.config);
        put_blob(paths, &id, &image.config)?;
        if let Some((digest, manifest)) = &image.manifest {
            put_blob(paths, digest, manifest)?;
        }
        let entry = Entry {
            manifest: image.manifest.map(|(digest, _)| digest),
            list: image.list,
            origin: image.origin,
            added_ms: clock::now_ms(),
            removed: false,
        };
        let index = Index::change(paths, |index| {
            let free = image.claimed.into_iter().filter(|name| !index.names.contains_key(name));
            let names: Vec<_> = image.names.into_iter().chain(free).collect();
            index.add(id, entry, names);
            Ok(index.clone())
        })?;
        self.summary(&index, &id)
    }

    pub(super) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let store = self.clone();
        blocking(move || work(&store)).await
    }
}

/// File work, off the threads that drive everybody's futures.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Internal, OPERATION, "file work was called off").with_source(error)),
    }
}

/// The configuration of an image in the store, verified.
pub(super) fn read_config(paths: &Paths, id: &Digest) -> Result<Config> {
    let path = paths.blob(id);
    let text = fs::read(&path).map_err(|source| {
        Error::new(ErrorKind::Corrupt, OPERATION, "the image's configuration cannot be read")
            .with("image", id)
            .with_hint("pull or import the image again")
            .with_source(source)
    })?;
    id.verify(OPERATION, "image configuration", &text)?;
    Config::parse(&text)
}

/// Keeps a document under its digest.
pub(super) fn put_blob(paths: &Paths, digest: &Digest, content: &[u8]) -> Result<()> {
    let target = paths.blob(digest);
    if fs::read(&target).is_ok_and(|there| there == content) {
        return Ok(());
    }
    let folder = TemporaryFolder::new(paths)?;
    let made = folder.path().join("blob");
    let write = || {
        fs::write(&made, content)?;
        fs::File::open(&made)?.sync_all()?;
        fs::rename(&made, &target)
    };
    write().context(OPERATION, || format!("cannot write {}", target.display()))
}

/// The name for a new image.
fn new_name(text: &str) -> Result<ImageName> {
    let refuse = |why: &str| Err(Error::new(ErrorKind::InvalidInput, "image name", why.to_owned()).with("name", text));
    let name = ImageName::parse(text)?;
    if name.digest().is_some() {
        return refuse("an image cannot be given a name with a digest");
    }
    if name.is_host() {
        return refuse("`host` is the name of the image made of this host");
    }
    Ok(name)
}
