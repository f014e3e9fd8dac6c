//! Folders that hold images: OCI layouts, and unpacked archives of `docker save`.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use sandbar_core::{Context as _, Error, ErrorKind, Result};
use sandbar_tree::{Access, Base};
use serde::Deserialize;

use super::{
    Digest, ImageName,
    config::Config,
    error::tree,
    layer::{Expected, Layers},
    manifest::{self, Blob, Candidate, LARGEST_DOCUMENT, Manifest},
    store::Finished,
};

const OPERATION: &str = "image import";

/// Whether a folder says that it is an OCI layout.
pub(super) fn is_layout(path: &Path) -> bool {
    path.join("oci-layout").is_file() && path.join("index.json").is_file()
}

/// Whether a folder is what `docker save` packs.
pub(super) fn is_docker_archive(path: &Path) -> bool {
    path.join("manifest.json").is_file()
}

/// Takes an image from an OCI layout.
pub(super) fn import(layers: &Layers, path: &Path, tag: Option<&str>, added: &mut Vec<Digest>) -> Result<Finished> {
    let source = Source::open(path)?;
    let index = source.document(Path::new("index.json"))?;
    let Manifest::List(candidates) = Manifest::parse(&index)? else {
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, "the layout's index.json is no index"));
    };
    let chosen = chosen(&candidates, tag)?;
    let mut names = Vec::new();
    // Some tools write the whole name here, most only a tag, which is no name.
    if let Some(name) = chosen.name.as_deref().filter(|name| name.contains([':', '/'])) {
        names.extend(claimed(name));
    }
    let (mut blob, mut list) = (chosen.blob.clone(), None);
    let mut text = source.blob(&blob)?;
    let mut manifest = Manifest::parse(&text)?;
    if let Manifest::List(candidates) = &manifest {
        list = Some(blob.digest);
        blob = manifest::choose(candidates)?.blob.clone();
        text = source.blob(&blob)?;
        manifest = Manifest::parse(&text)?;
    }
    let Manifest::Image { config, layers: blobs } = manifest else {
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, "a list of manifests within a list of manifests"));
    };
    let config = source.blob(&config)?;
    let diff_ids = paired(&config, blobs.len())?;
    for (blob, diff_id) in blobs.iter().zip(diff_ids) {
        if !layers.has(&diff_id) {
            let file = source.file(&blob_path(&blob.digest))?;
            layers.add(file, blob.size, Some(Expected { diff_id, blob: Some(blob.digest) }))?;
            added.push(diff_id);
        }
    }
    Ok(Finished { manifest: Some((blob.digest, text)), list, claimed: names, ..Finished::nameless(config) })
}

/// Takes an image from an unpacked archive of `docker save`.
pub(super) fn import_docker(layers: &Layers, path: &Path, tag: Option<&str>, added: &mut Vec<Digest>) -> Result<Finished> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Image {
        config: PathBuf,
        #[serde(default)]
        repo_tags: Option<Vec<String>>,
        layers: Vec<PathBuf>,
    }
    let source = Source::open(path)?;
    let text = source.document(Path::new("manifest.json"))?;
    let images: Vec<Image> = serde_json::from_slice(&text)
        .map_err(|source| Error::new(ErrorKind::Corrupt, OPERATION, "the archive's manifest.json is damaged").with_source(source))?;
    let tags = |image: &Image| image.repo_tags.clone().unwrap_or_default();
    let mut matching = images.iter().filter(|image| tag.is_none_or(|tag| tags(image).iter().any(|name| is_named(name, tag))));
    let image = match (matching.next(), matching.next()) {
        (Some(image), None) => image,
        (found, _) => return Err(not_one(found.is_some(), tag, images.iter().flat_map(tags))),
    };
    let config = source.document(&image.config)?;
    let diff_ids = paired(&config, image.layers.len())?;
    for (path, diff_id) in image.layers.iter().zip(diff_ids) {
        if !layers.has(&diff_id) {
            let file = source.file(path)?;
            let size = file.metadata().context(OPERATION, || format!("cannot read {}", path.display()))?.len();
            layers.add(file, size, Some(Expected { diff_id, blob: None }))?;
            added.push(diff_id);
        }
    }
    let names = tags(image).iter().filter_map(|name| claimed(name)).collect();
    Ok(Finished { claimed: names, ..Finished::nameless(config) })
}

/// A name that an archive gives its image, if it may have it.
fn claimed(name: &str) -> Option<String> {
    ImageName::parse(name).ok().filter(|name| name.digest().is_none() && !name.is_host()).map(|name| name.key())
}

/// The digests of as many layers as there are.
pub(super) fn paired(config: &[u8], layers: usize) -> Result<Vec<Digest>> {
    let diff_ids = Config::parse(config)?.diff_ids;
    if diff_ids.len() != layers {
        let message = "manifest and configuration do not agree about the number of layers";
        return Err(Error::new(ErrorKind::Corrupt, OPERATION, message).with("manifest", layers).with("configuration", diff_ids.len()));
    }
    Ok(diff_ids)
}

/// A folder of blobs, which a stranger may have filled: nothing in it leads out of it.
pub(super) struct Source {
    base: Base,
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let folder = File::open(path).context(OPERATION, || format!("cannot open {}", path.display()))?;
        Ok(Self { base: Base::jail(folder, None) })
    }

    pub(super) fn file(&self, path: &Path) -> Result<File> {
        self.base.open_file(path, Access::Read, 0).map_err(|error| match error.kind() {
            sandbar_tree::ErrorKind::NotFound => {
                Error::new(ErrorKind::Corrupt, OPERATION, "a part of the image is missing").with("path", path.display())
            }
            _ => tree(OPERATION, "a part of the image cannot be read", error),
        })
    }

    pub(super) fn document(&self, path: &Path) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        let read = self.file(path)?.take(LARGEST_DOCUMENT + 1).read_to_end(&mut text);
        read.context(OPERATION, || format!("cannot read {}", path.display()))?;
        if text.len() as u64 > LARGEST_DOCUMENT {
            let message = format!("a document is larger than {LARGEST_DOCUMENT} bytes");
            return Err(Error::new(ErrorKind::ResourceExhausted, OPERATION, message).with("path", path.display()));
        }
        Ok(text)
    }

    pub(super) fn blob(&self, blob: &Blob) -> Result<Vec<u8>> {
        let text = self.document(&blob_path(&blob.digest))?;
        blob.digest.verify(OPERATION, "document", &text)?;
        Ok(text)
    }
}

pub(super) fn blob_path(digest: &Digest) -> PathBuf {
    Path::new("blobs/sha256").join(digest.hex())
}

/// The one image that is meant. Several entries of one name are platforms of one image.
fn chosen<'a>(candidates: &'a [Candidate], tag: Option<&str>) -> Result<&'a Candidate> {
    let matching = |candidate: &&Candidate| tag.is_none_or(|tag| candidate.name.as_deref().is_some_and(|name| is_named(name, tag)));
    let matching: Vec<Candidate> = candidates.iter().filter(matching).cloned().collect();
    let several = matching.windows(2).any(|pair| pair[0].name != pair[1].name);
    if matching.is_empty() || several {
        let names = candidates.iter().filter_map(|candidate| candidate.name.clone());
        return Err(not_one(several, tag, names));
    }
    let best = manifest::choose(&matching)?.blob.digest;
    candidates
        .iter()
        .find(|candidate| candidate.blob.digest == best)
        .ok_or_else(|| Error::new(ErrorKind::Internal, OPERATION, "the chosen manifest vanished"))
}

/// Whether a recorded name is the one asked for: the same, or one with this tag.
fn is_named(name: &str, tag: &str) -> bool {
    name == tag || name.rsplit_once(':').is_some_and(|(_, last)| last == tag)
}

fn not_one(several: bool, tag: Option<&str>, names: impl Iterator<Item = String>) -> Error {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names.dedup();
    let (kind, message) = match (several, tag) {
        (true, _) => (ErrorKind::InvalidInput, "several images are in there"),
        (false, Some(_)) => (ErrorKind::NotFound, "no image with this tag is in there"),
        (false, None) => (ErrorKind::NotFound, "no image is in there"),
    };
    let mut error = Error::new(kind, OPERATION, message);
    if let Some(tag) = tag {
        error = error.with("tag", tag);
    }
    if !names.is_empty() {
        error = error.with("there", names.join(", ")).with_hint("say which one with PATH:TAG");
    }
    error
}
