//! From an image's name to a root file system, and which ones are needed.

use sandbar_core::{Error, ErrorKind, Feature, ImageKind, Result, RootSource};

use sandbar_guest::RootImage;

use crate::{
    Runtime,
    choice::Choice,
    image::{Collected, HOST, Pin, Removed},
};

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
        let features = choice.provider.info().features;
        if !features.has(Feature::HostImage) && !features.has(Feature::LayeredImage) {
            return match image {
                None => Ok(Resolved { image: "none".to_owned(), root: RootSource::empty(), pin: None }),
                Some(image) => {
                    Err(Error::new(ErrorKind::Unsupported, "create", format!("{} takes no image", choice.name)).with("image", image))
                }
            };
        }
        if image.is_none() && !features.has(Feature::HostImage) {
            return Err(Error::new(ErrorKind::InvalidInput, "create", format!("{} needs an image", choice.name))
                .with_hint("name one with --image; sandbar image ls shows those that are here, sandbar image pull gets more"));
        }
        let (root, pin) = self.images().resolve_pinned(image).await?;
        Ok(Resolved { image: image.unwrap_or(HOST).to_owned(), root, pin: Some(pin) })
    }

    /// The root of a checkpoint's image, without the checkpoint's layers. The image `host` is the skeleton of then over the host's programs of
    /// now: those lie on read-only mounts, so no layer can contradict them.
    ///
    /// # Errors
    /// `NotFound` when the image is not here, as for a checkpoint on `host` of another machine.
    pub(crate) async fn resolve_again(&self, kind: &ImageKind) -> Result<(RootSource, Option<Pin>)> {
        if *kind == ImageKind::Empty {
            return Ok((RootSource::empty(), None));
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
        self.images().remove(reference, move || runtime.roots_in_use()).await
    }

    /// Removes layers that no image, sandbox and checkpoint needs.
    pub(crate) async fn collect_images(&self) -> Result<Collected> {
        let runtime = self.clone();
        self.images().collect(move || runtime.roots_in_use()).await
    }

    /// Removes the disks of images that are gone and that nothing needs.
    pub(crate) async fn collect_root_images(&self) -> Result<u64> {
        let mut kept = self.roots_in_use()?;
        for image in self.images().list().await? {
            kept.push(self.images().resolve(Some(&image.id.to_string())).await?);
        }
        RootImage::new(self.home().path()).collect(&kept)
    }

    fn roots_in_use(&self) -> Result<Vec<RootSource>> {
        self.ledger().roots()
    }
}
