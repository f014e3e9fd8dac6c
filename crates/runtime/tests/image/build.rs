//! Archives and layouts made by hand, honest and otherwise.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use sandbar_runtime::image::Digest;
use tar::{EntryType, Header};

/// A tar in the making.
pub(crate) struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn entry(mut self, kind: EntryType, name: &str, link: Option<&str>, mode: u32, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        // By hand, as the crate refuses the names that make an archive hostile.
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(link) = link {
            raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_700_000_000);
        header.set_size(data.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    pub(crate) fn folder(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, None, 0o755, b"")
    }

    pub(crate) fn closed_folder(self, name: &str) -> Self {
        self.entry(EntryType::Directory, name, None, 0o000, b"")
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.entry(EntryType::Regular, name, None, 0o644, data)
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, name, Some(target), 0o777, b"")
    }

    pub(crate) fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, Some(target), 0o644, b"")
    }

    pub(crate) fn device(self, name: &str) -> Self {
        self.entry(EntryType::Char, name, None, 0o666, b"")
    }

    pub(crate) fn done(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// An ordinary tree.
pub(crate) fn plain_tree() -> Vec<u8> {
    Tar::new()
        .folder("./")
        .folder("./bin/")
        .file("./bin/tool", b"#!/bin/sh\n")
        .symlink("./bin/sh", "tool")
        .file("./hello", b"hello\n")
        .done()
}

pub(crate) fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 1).unwrap()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// This host's architecture, as OCI names it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// An image for a layout: its layers as they are transferred, and what the documents say about them.
pub(crate) struct Image {
    pub(crate) blobs: Vec<Vec<u8>>,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) architecture: String,
    /// The `config` object of the configuration.
    pub(crate) config: String,
}

impl Image {
    /// Of these archives, each gzipped.
    pub(crate) fn new(layers: &[Vec<u8>]) -> Self {
        Self {
            blobs: layers.iter().map(|layer| gzip(layer)).collect(),
            diff_ids: layers.iter().map(|layer| Digest::of(layer)).collect(),
            architecture: architecture().to_owned(),
            config: "{}".to_owned(),
        }
    }
}

/// A folder in the form of an OCI layout.
pub(crate) struct Layout {
    pub(crate) path: PathBuf,
    entries: Vec<String>,
}

impl Layout {
    pub(crate) fn new(path: &Path) -> Self {
        fs::create_dir_all(path.join("blobs/sha256")).unwrap();
        fs::write(path.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
        let layout = Self { path: path.to_owned(), entries: Vec::new() };
        layout.write_index();
        layout
    }

    /// With one image in it.
    pub(crate) fn of(path: &Path, tag: &str, image: &Image) -> Self {
        let mut layout = Self::new(path);
        layout.add(tag, image);
        layout
    }

    pub(crate) fn blob(&self, data: &[u8]) -> Digest {
        let digest = Digest::of(data);
        fs::write(self.blob_path(&digest), data).unwrap();
        digest
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    /// Adds an image under a tag; the digest of its configuration.
    pub(crate) fn add(&mut self, tag: &str, image: &Image) -> Digest {
        let (manifest, config) = self.manifest(image);
        self.tag(&self.descriptor(&manifest, "application/vnd.oci.image.manifest.v1+json", ""), tag);
        config
    }

    /// Adds one image for several platforms under a tag.
    pub(crate) fn add_platforms(&mut self, tag: &str, images: &[Image]) {
        let entries: Vec<_> = images
            .iter()
            .map(|image| {
                let (manifest, _) = self.manifest(image);
                let platform = format!(r#", "platform": {{"os": "linux", "architecture": "{}"}}"#, image.architecture);
                self.descriptor(&manifest, "application/vnd.oci.image.manifest.v1+json", &platform)
            })
            .collect();
        let index = format!(
            r#"{{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [{}]}}"#,
            entries.join(",")
        );
        let digest = self.blob(index.as_bytes());
        self.tag(&self.descriptor(&digest, "application/vnd.oci.image.index.v1+json", ""), tag);
    }

    fn manifest(&self, image: &Image) -> (Digest, Digest) {
        let diff_ids: Vec<_> = image.diff_ids.iter().map(|digest| format!("{:?}", digest.to_string())).collect();
        let config = format!(
            r#"{{"architecture": "{}", "os": "linux", "config": {}, "rootfs": {{"type": "layers", "diff_ids": [{}]}}}}"#,
            image.architecture,
            image.config,
            diff_ids.join(",")
        );
        let config = self.blob(config.as_bytes());
        let layers: Vec<_> =
            image.blobs.iter().map(|data| self.descriptor(&self.blob(data), "application/vnd.oci.image.layer.v1.tar+gzip", "")).collect();
        let manifest = format!(
            r#"{{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {}, "layers": [{}]}}"#,
            self.descriptor(&config, "application/vnd.oci.image.config.v1+json", ""),
            layers.join(",")
        );
        (self.blob(manifest.as_bytes()), config)
    }

    fn descriptor(&self, digest: &Digest, kind: &str, extra: &str) -> String {
        let size = fs::metadata(self.blob_path(digest)).unwrap().len();
        format!(r#"{{"mediaType": "{kind}", "digest": "{digest}", "size": {size}{extra}}}"#)
    }

    fn tag(&mut self, descriptor: &str, tag: &str) {
        let annotation = format!(r#", "annotations": {{"org.opencontainers.image.ref.name": "{tag}"}}}}"#);
        self.entries.push(format!("{}{annotation}", descriptor.strip_suffix('}').unwrap()));
        self.write_index();
    }

    fn write_index(&self) {
        let index = format!(r#"{{"schemaVersion": 2, "manifests": [{}]}}"#, self.entries.join(","));
        fs::write(self.path.join("index.json"), index).unwrap();
    }

    /// The layout as a tar.
    pub(crate) fn archive(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_dir_all(".", &self.path).unwrap();
        builder.into_inner().unwrap()
    }
}

/// What `docker save` writes: one layer twice, the second time as a link to the first.
pub(crate) fn docker_archive(layer: &[u8], tags: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let diff_id = Digest::of(layer);
    let config = format!(
        r#"{{"architecture": "{}", "os": "linux", "config": {{"Cmd": ["sh"]}}, "rootfs": {{"type": "layers", "diff_ids": ["{diff_id}", "{diff_id}"]}}}}"#,
        architecture()
    );
    let name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    fs::write(path.join(&name), config).unwrap();
    for (seed, linked) in [("one", false), ("two", true)] {
        let folder = path.join(Digest::of(seed.as_bytes()).hex());
        fs::create_dir(&folder).unwrap();
        if linked {
            symlink(format!("../{}/layer.tar", Digest::of(b"one").hex()), folder.join("layer.tar")).unwrap();
        } else {
            fs::write(folder.join("layer.tar"), layer).unwrap();
        }
    }
    let tags: Vec<_> = tags.iter().map(|tag| format!("{tag:?}")).collect();
    let layer = |seed: &str| format!("\"{}/layer.tar\"", Digest::of(seed.as_bytes()).hex());
    let manifest = format!(r#"[{{"Config": "{name}", "RepoTags": [{}], "Layers": [{}, {}]}}]"#, tags.join(","), layer("one"), layer("two"));
    fs::write(path.join("manifest.json"), manifest).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for entry in names {
        let name = entry.file_name().unwrap().to_owned();
        if entry.is_dir() { builder.append_dir_all(&name, &entry).unwrap() } else { builder.append_path_with_name(&entry, &name).unwrap() }
    }
    builder.into_inner().unwrap()
}
