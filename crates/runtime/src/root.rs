//! From an image's name to a root file system, and which ones are needed.

use std::path::Path;

use sandbar_core::{Context as _, Error, ErrorKind, Feature, ImageKind, Result, RootSource, SandboxProvider};

use sandbar_guest::RootImage;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::{
    Runtime,
    choice::{Choice, how_to_get_base},
    image::{Collected, HOST, ImageLimits, ImageSummary, Pin, ProgressCallback, Removed},
};

/// The image of sandboxes for which none is named, where the provider cannot show the host's programs.
pub(crate) const BASE: &str = "base";

/// A root file system about to be used.
pub(crate) struct Resolved {
    /// The image's name, for listings.
    pub(crate) image: String,
    pub(crate) root: RootSource,
    /// Keeps the layers in place until the ledger has a row that says so.
    pub(crate) pin: Option<Pin>,
}

impl Runtime {
    /// The root file system for a new sandbox: of the image that is named, else of the host where the provider can show it.
    pub(crate) async fn resolve_image(&self, image: Option<&str>, choice: &Choice) -> Result<Resolved> {
        if choice.provider.is_elsewhere() {
            let root = RootSource::elsewhere(image.map(str::to_owned));
            return Ok(Resolved { image: image.unwrap_or("default").to_owned(), root, pin: None });
        }
        let features = choice.provider.info().features;
        if !features.has(Feature::HostImage) && !features.has(Feature::LayeredImage) {
            return match image {
                None => Ok(Resolved { image: "none".to_owned(), root: RootSource::empty(), pin: None }),
                Some(image) => {
                    Err(Error::new(ErrorKind::Unsupported, "create", format!("{} takes no image", choice.name)).with("image", image))
                }
            };
        }
        let default = if features.has(Feature::HostImage) { HOST } else { BASE };
        let found = match (image, self.images().resolve_pinned(Some(image.unwrap_or(default))).await) {
            (None, Err(error)) if error.kind() == ErrorKind::NotFound => {
                let message = format!("{} needs an image, and its default `{BASE}` is not here", choice.name);
                Err(Error::new(ErrorKind::NotFound, "create", message).with_hint(how_to_get_base(&choice.name)))
            }
            // The provider may have it, or get it.
            (Some(image), Err(error)) if error.kind() == ErrorKind::NotFound => {
                // An engine would ask whichever registry the name says.
                if !self.sees_all() {
                    return Err(error.with_hint("who has a key with the scope admin may take it in"));
                }
                match self.fetch_image(choice.provider.as_ref(), image, &|said| tracing::info!(image, "{said}")).await? {
                    Some(fetched) => self.images().resolve_pinned(Some(&fetched.id.to_string())).await,
                    None => Err(error),
                }
            }
            (_, found) => found,
        };
        let (root, pin) = found?;
        Ok(Resolved { image: image.unwrap_or(default).to_owned(), root, pin: Some(pin) })
    }

    /// Takes an image of a provider's own (an engine's, or one that the engine pulls) into the store, under the name it has there. `None`: the provider has no
    /// images of its own.
    ///
    /// # Errors
    /// `NotFound` when it has none of that name either; those of an import.
    pub async fn fetch_image(
        &self,
        provider: &dyn SandboxProvider,
        reference: &str,
        said: &(dyn for<'s> Fn(&'s str) + Send + Sync),
    ) -> Result<Option<ImageSummary>> {
        let folder = self.images().temporary().await?;
        let archive = folder.path().join("image.tar");
        if !provider.fetch_image(reference, &archive, said).await? {
            return Ok(None);
        }
        // A digest is no name; the archive claims those that it has.
        let name = Some(reference).filter(|reference| !reference.contains('@'));
        self.images().import(&archive, name).await.map(Some)
    }

    /// Fetches an image from a registry; see [`ImageStore::pull`](crate::image::ImageStore::pull).
    ///
    /// # Errors
    /// As there.
    pub async fn pull_image(&self, reference: &str, progress: ProgressCallback) -> Result<ImageSummary> {
        self.deed("image-pull").at(reference).done(self.images().pull(reference, progress)).await
    }

    /// Takes in an image from a folder or a file; see [`ImageStore::import`](crate::image::ImageStore::import).
    ///
    /// # Errors
    /// As there.
    pub async fn import_image(&self, source: &Path, name: Option<&str>) -> Result<ImageSummary> {
        let deed = self.deed("image-import").at(name.map_or_else(|| source.display().to_string(), str::to_owned));
        deed.done(self.images().import(source, name)).await
    }

    /// Takes in an image as it arrives: a tar (plain, gzip or zstd) of a file system, of an OCI layout, or of `docker save`; `tag` says which one, where it holds
    /// several.
    ///
    /// # Errors
    /// As for [`import_image`](Self::import_image); `ResourceExhausted` for one that is larger than any image may be.
    pub async fn receive_image(
        &self,
        content: &mut (dyn AsyncRead + Send + Unpin),
        tag: Option<&str>,
        name: Option<&str>,
    ) -> Result<ImageSummary> {
        let arrive = async {
            let folder = self.images().temporary().await?;
            let mut path = folder.path().join("image.tar");
            receive(content, &path, ImageLimits::default().blob_bytes, "image import").await?;
            if let Some(tag) = tag {
                path.as_mut_os_string().push(format!(":{tag}"));
            }
            self.images().import_from(&path, name, Some("a client")).await
        };
        self.deed("image-import").at(name.unwrap_or("a client's")).done(arrive).await
    }

    /// The root of a checkpoint's image, without the checkpoint's layers. The image `host` is the skeleton of then over the host's programs of
    /// now: those lie on read-only mounts, so no layer can contradict them.
    ///
    /// # Errors
    /// `NotFound` when the image is not here, as for a checkpoint on `host` of another machine.
    pub(crate) async fn resolve_again(&self, kind: &ImageKind) -> Result<(RootSource, Option<Pin>)> {
        match kind {
            ImageKind::Empty => return Ok((RootSource::empty(), None)),
            ImageKind::Elsewhere { image } => return Ok((RootSource::elsewhere(image.clone()), None)),
            ImageKind::Host { .. } | ImageKind::Layers { .. } => {}
        }
        let pin = Some(self.images().pin().await?);
        Ok((self.images().root_of(kind).await?, pin))
    }

    /// Removes an image, or a name of it. What sandboxes and checkpoints need stays on the disk as long as they do.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for `host`.
    pub async fn remove_image(&self, reference: &str) -> Result<Removed> {
        let runtime = self.clone();
        self.deed("image-remove").at(reference).done(self.images().remove(reference, move || runtime.roots_in_use())).await
    }

    /// Removes layers that no image, sandbox and checkpoint needs.
    pub(crate) async fn collect_images(&self) -> Result<Collected> {
        let runtime = self.clone();
        self.images().collect(move || runtime.roots_in_use()).await
    }

    /// Removes the disks of images that are gone and that nothing needs.
    pub(crate) async fn collect_root_images(&self) -> Result<u64> {
        RootImage::new(self.home().path()).collect(&self.roots_to_keep().await?)
    }

    /// Of what is made from roots, what was made from these is of use.
    pub(crate) async fn roots_to_keep(&self) -> Result<Vec<RootSource>> {
        let mut kept = self.roots_in_use()?;
        for image in self.images().list().await? {
            kept.push(self.images().resolve(Some(&image.id.to_string())).await?);
        }
        Ok(kept)
    }

    fn roots_in_use(&self) -> Result<Vec<RootSource>> {
        self.ledger().roots()
    }
}

/// Writes what arrives into a file, up to a limit.
pub(crate) async fn receive(content: &mut (dyn AsyncRead + Send + Unpin), path: &Path, most: u64, operation: &'static str) -> Result<()> {
    let cannot = || format!("cannot write what arrives to {}", path.display());
    let mut file = tokio::fs::File::create_new(path).await.context(operation, cannot)?;
    let length = tokio::io::copy(&mut content.take(most.saturating_add(1)), &mut file).await.context(operation, cannot)?;
    if length > most {
        return Err(Error::new(ErrorKind::ResourceExhausted, operation, "it is larger than it may be").with("limit", most));
    }
    file.flush().await.context(operation, cannot)
}
