//! Manifests and indexes of manifests: what an image consists of, for which platform.

use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest, MediaType, Os};
use sandbar_core::{Error, ErrorKind, Result};
use serde::Deserialize;

use super::Digest;

const OPERATION: &str = "image manifest";

/// No manifest or configuration is larger; registries have the same limit.
pub(super) const LARGEST_DOCUMENT: u64 = 4 << 20;

/// No image has more layers: overlayfs takes 500, and engines stop at 127.
const MOST_LAYERS: usize = 128;

/// Content by digest and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// A manifest that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Manifest {
    /// One image: its configuration and its layers, lowest first, as they are transferred.
    Image { config: Blob, layers: Vec<Blob> },
    /// One image per platform, or several images.
    List(Vec<Candidate>),
}

/// One entry of a list of manifests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) blob: Blob,
    /// Whether it is for this host; `None` if it does not say.
    fits: Option<Fit>,
    /// What it says about its platform, for people.
    platform: String,
    /// `org.opencontainers.image.ref.name`.
    pub(super) name: Option<String>,
}

/// Better ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    No,
    /// It asks for more than the baseline of the architecture.
    Variant,
    Yes,
}

impl Manifest {
    /// Reads a manifest or a list of them.
    ///
    /// # Errors
    /// `Corrupt` for what is neither; `Unsupported` for artifacts that are no images.
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            schema_version: Option<u32>,
            manifests: Option<serde::de::IgnoredAny>,
            fs_layers: Option<serde::de::IgnoredAny>,
        }
        let shape: Shape = serde_json::from_slice(text).map_err(damaged)?;
        if shape.fs_layers.is_some() || shape.schema_version == Some(1) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                OPERATION,
                "the image has a manifest of schema 1, which nobody makes since 2017",
            ));
        }
        if shape.manifests.is_some() {
            let index: ImageIndex = serde_json::from_slice(text).map_err(damaged)?;
            return Ok(Self::List(index.manifests().iter().filter_map(|entry| Candidate::of(entry).transpose()).collect::<Result<_>>()?));
        }
        let manifest: ImageManifest = serde_json::from_slice(text).map_err(damaged)?;
        let config = manifest.config();
        match config.media_type() {
            MediaType::ImageConfig => {}
            MediaType::Other(name) if name == "application/vnd.docker.container.image.v1+json" => {}
            other => {
                let message = "this is an artifact and not an image";
                return Err(Error::new(ErrorKind::Unsupported, OPERATION, message).with("type", other));
            }
        }
        if manifest.layers().len() > MOST_LAYERS {
            let message = format!("the image has more than {MOST_LAYERS} layers");
            return Err(Error::new(ErrorKind::ResourceExhausted, OPERATION, message).with("layers", manifest.layers().len()));
        }
        let layers = manifest.layers().iter().map(layer).collect::<Result<_>>()?;
        Ok(Self::Image { config: blob(config)?, layers })
    }
}

impl Candidate {
    /// `None` for entries that are attached to an image and none themselves (signatures, provenance).
    fn of(entry: &Descriptor) -> Result<Option<Self>> {
        let annotation = |name: &str| entry.annotations().as_ref().and_then(|all| all.get(name));
        if annotation("vnd.docker.reference.type").is_some() || entry.artifact_type().is_some() {
            return Ok(None);
        }
        let platform = entry.platform().as_ref();
        let fits = platform.map(|platform| {
            if platform.os() != &Os::Linux || platform.architecture() != &Arch::default() {
                return Fit::No;
            }
            match (platform.architecture(), platform.variant().as_deref()) {
                (_, None) | (Arch::Amd64, Some("v1")) | (Arch::ARM64, Some("v8")) => Fit::Yes,
                _ => Fit::Variant,
            }
        });
        let name = annotation("org.opencontainers.image.ref.name").cloned();
        let platform = platform.map_or_else(|| "unknown".to_owned(), |platform| format!("{}/{}", platform.os(), platform.architecture()));
        Ok(Some(Self { blob: blob(entry)?, fits, platform, name }))
    }
}

/// The one of several manifests that is for this host.
///
/// # Errors
/// `Unsupported`, with the platforms there are.
pub(super) fn choose(candidates: &[Candidate]) -> Result<&Candidate> {
    // The first of the best, as the order of a list is its author's preference.
    let best = candidates.iter().rev().filter(|candidate| candidate.fits != Some(Fit::No)).max_by_key(|candidate| candidate.fits);
    best.ok_or_else(|| {
        let mut platforms: Vec<_> = candidates.iter().map(|candidate| candidate.platform.as_str()).collect();
        platforms.sort_unstable();
        platforms.dedup();
        Error::new(ErrorKind::Unsupported, OPERATION, "the image is not made for this host's platform")
            .with("host", platform())
            .with("image", platforms.join(", "))
    })
}

/// This host's platform, in OCI's words.
pub(super) fn platform() -> String {
    let (os, architecture) = platform_words();
    format!("{os}/{architecture}")
}

/// The same as the two words that documents have: system and architecture.
pub(crate) fn platform_words() -> (String, String) {
    (Os::Linux.to_string(), Arch::default().to_string())
}

fn blob(descriptor: &Descriptor) -> Result<Blob> {
    let digest = descriptor.digest().as_ref().parse::<Digest>().map_err(|source| {
        Error::new(ErrorKind::Unsupported, OPERATION, "the manifest names content in a way that is not supported").with_source(source)
    })?;
    Ok(Blob { digest, size: descriptor.size() })
}

fn layer(descriptor: &Descriptor) -> Result<Blob> {
    let name = descriptor.media_type().to_string();
    // What the bytes are is seen when they come; here only what can never work is told early.
    if name.contains("encrypted") || !name.contains("tar") {
        return Err(Error::new(ErrorKind::Unsupported, OPERATION, "the image has a layer that is no plain archive").with("type", name));
    }
    blob(descriptor)
}

fn damaged(source: serde_json::Error) -> Error {
    Error::new(ErrorKind::Corrupt, OPERATION, "this is not an image manifest").with_source(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(seed: &str, extra: &str) -> String {
        let digest = Digest::of(seed.as_bytes());
        format!(r#"{{"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 7, "digest": "{digest}"{extra}}}"#)
    }

    fn list(entries: &[String]) -> Vec<Candidate> {
        let text = format!(r#"{{"schemaVersion": 2, "manifests": [{}]}}"#, entries.join(","));
        match Manifest::parse(text.as_bytes()).unwrap() {
            Manifest::List(candidates) => candidates,
            Manifest::Image { .. } => panic!("not a list"),
        }
    }

    fn on(architecture: &str, variant: &str) -> String {
        format!(r#", "platform": {{"os": "linux", "architecture": "{architecture}"{variant}}}"#)
    }

    #[test]
    fn the_manifest_of_this_platform_is_chosen_and_the_baseline_preferred() {
        let here = Arch::default().to_string();
        let candidates = list(&[
            entry("other", &on("s390x", "")),
            entry("more", &on(&here, r#", "variant": "v3""#)),
            entry("this", &on(&here, "")),
            entry("late", &on(&here, "")),
            entry("proof", r#", "platform": {"os": "unknown", "architecture": "unknown"}"#),
        ]);
        assert_eq!(choose(&candidates).unwrap().blob.digest, Digest::of(b"this"));
    }

    #[test]
    fn no_manifest_for_this_platform_is_told_with_those_there_are() {
        let error = choose(&list(&[entry("other", &on("s390x", ""))])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("linux/s390x"), "{error}");
    }

    #[test]
    fn attestations_are_no_images() {
        let candidates = list(&[entry("a", r#", "annotations": {"vnd.docker.reference.type": "attestation-manifest"}"#)]);
        assert_eq!(candidates, []);
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        for (text, kind) in [
            ("", ErrorKind::Corrupt),
            ("{}", ErrorKind::Corrupt),
            (r#"{"schemaVersion": 1, "fsLayers": []}"#, ErrorKind::Unsupported),
            (r#"{"schemaVersion": 2, "manifests": [{"mediaType": "x", "size": 1, "digest": "sha256:.."}]}"#, ErrorKind::Corrupt),
        ] {
            assert_eq!(Manifest::parse(text.as_bytes()).unwrap_err().kind(), kind, "{text}");
        }
    }
}
