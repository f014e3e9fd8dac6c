//! An image about to leave: an OCI layout in the making, written out as one tar.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use rustix::fd::OwnedFd;
use sandbar_core::{Context as _, Error, ErrorKind, Result};
use sandbar_tree::{Base, MergeOptions, PackOptions, PackWhiteouts, Packed, Shown};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Digest, ImageStore,
    digest::HashingWriter,
    error::tree,
    manifest,
    owned::as_owner,
    stop::{Stop, Stoppable},
    temporary::TemporaryFolder,
};

const OPERATION: &str = "export";
const BUFFER: usize = 128 * 1024;
/// gzip is what every tool reads, at the level where it costs about as much time as the digests.
const LEVEL: Compression = Compression::new(3);

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What one layer is packed of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LayerSource {
    /// A layer as it is, with its whiteouts.
    One(PathBuf),
    /// What an overlay of these shows, the lowest first, with folders of the host at the top.
    Merged { layers: Vec<PathBuf>, host: Vec<PathBuf> },
}

/// A layer that lies in the stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StagedLayer {
    digest: Digest,
    /// The digest of the uncompressed archive.
    pub(crate) diff_id: Digest,
    size: u64,
    /// What of the host's folders is not for everybody to read.
    pub(crate) left_out: u64,
}

/// The layout in the making. It vanishes with this value.
#[derive(Debug)]
pub(crate) struct Departure {
    folder: TemporaryFolder,
    stop: Stop,
}

impl Departure {
    pub(crate) fn new(store: &ImageStore) -> Result<Self> {
        let folder = TemporaryFolder::new(&store.layers.paths)?;
        let stop = Stop::within(folder.path());
        let blobs = folder.path().join("layout/blobs/sha256");
        fs::create_dir_all(&blobs).context(OPERATION, || format!("cannot make {}", blobs.display()))?;
        Ok(Self { folder, stop })
    }

    /// Calls off whatever is being done with it.
    pub(crate) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    fn layout(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.layout().join("blobs/sha256").join(digest.hex())
    }

    /// Packs and compresses a layer.
    ///
    /// # Errors
    /// `Conflict` when it changed meanwhile; `Unsupported` for what an OCI layer cannot say; `ResourceExhausted` on a full disk.
    pub(crate) fn layer(&self, source: &LayerSource) -> Result<StagedLayer> {
        let made = self.folder.path().join("layer");
        let staged = as_owner(OPERATION, || pack(source, &made, &self.stop))?;
        self.keep(&made, &staged.digest)?;
        Ok(staged)
    }

    /// Completes the layout: a configuration with these layers' digests in it, the manifest with its annotations, the index. Gives the
    /// manifest's digest.
    pub(crate) fn finish(&self, config: &Value, layers: &[StagedLayer], annotations: &Value, name: &str) -> Result<Digest> {
        let config = self.document(CONFIG, config)?;
        let layers: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER, &layer.digest, layer.size)).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config.0,
            "layers": layers,
            "annotations": annotations,
        });
        let (mut manifest, digest) = self.document(MANIFEST, &manifest)?;
        let (os, architecture) = manifest::platform_words();
        manifest["platform"] = json!({ "os": os, "architecture": architecture });
        manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let index = json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest] });
        self.write_file("index.json", &to_text(&index)?)?;
        self.write_file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(digest)
    }

    /// Writes the layout as a tar; tells how many bytes it has.
    pub(crate) fn write(&self, into: impl Write) -> Result<u64> {
        let base = Base::jail(File::open(self.layout()).context(OPERATION, || "cannot open the layout".to_owned())?, None);
        let options = PackOptions { root_entry: false, ..PackOptions::default() };
        let mut counted = HashingWriter::new(BufWriter::with_capacity(BUFFER, Stoppable { stream: into, stop: &self.stop }));
        let packed = sandbar_tree::pack(&base, ".", &mut counted, &options);
        packed.map_err(|error| tree(OPERATION, "cannot write the file", error))?;
        let (mut writer, _, bytes) = counted.finish();
        writer.flush().context(OPERATION, || "cannot write the file".to_owned())?;
        Ok(bytes)
    }

    fn document(&self, kind: &str, document: &Value) -> Result<(Value, Digest)> {
        let text = to_text(document)?;
        let digest = Digest::of(&text);
        self.write_file(&format!("blobs/sha256/{}", digest.hex()), &text)?;
        Ok((descriptor(kind, &digest, text.len() as u64), digest))
    }

    fn write_file(&self, name: &str, text: &[u8]) -> Result<()> {
        let path = self.layout().join(name);
        fs::write(&path, text).context(OPERATION, || format!("cannot write {}", path.display()))
    }

    fn keep(&self, made: &Path, digest: &Digest) -> Result<()> {
        let target = self.blob(digest);
        fs::rename(made, &target).context(OPERATION, || format!("cannot rename to {}", target.display()))
    }
}

fn descriptor(kind: &str, digest: &Digest, size: u64) -> Value {
    json!({ "mediaType": kind, "digest": digest, "size": size })
}

fn to_text(document: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(document)
        .map_err(|source| Error::new(ErrorKind::Internal, OPERATION, "a document cannot be written as JSON").with_source(source))
}

fn pack(source: &LayerSource, into: &Path, stop: &Stop) -> Result<StagedLayer> {
    let writing = || format!("cannot write {}", into.display());
    let file = File::create(into).context(OPERATION, writing)?;
    let file = HashingWriter::new(BufWriter::with_capacity(BUFFER, Stoppable { stream: file, stop }));
    let mut archive = HashingWriter::new(GzEncoder::new(file, LEVEL));
    let packed = pack_tree(source, &mut archive)?;
    if packed.changed > 0 {
        let first = packed.changed_paths.first().map(|path| format!("{path:?}")).unwrap_or_default();
        let error = Error::new(ErrorKind::Conflict, OPERATION, "the layer changed while it was read");
        return Err(error.with("changed", packed.changed).with("first", first));
    }
    let (compressor, diff_id, _) = archive.finish();
    let (mut writer, digest, size) = compressor.finish().context(OPERATION, writing)?.finish();
    writer.flush().context(OPERATION, writing)?;
    Ok(StagedLayer { digest, diff_id, size, left_out: packed.left_out })
}

fn pack_tree(source: &LayerSource, archive: impl Write) -> Result<Packed> {
    let open = |path: &PathBuf| -> Result<OwnedFd> {
        Ok(File::open(path).context(OPERATION, || format!("cannot open the layer {}", path.display()))?.into())
    };
    let archive = BufWriter::with_capacity(BUFFER, archive);
    let packed = match source {
        LayerSource::One(path) => {
            let options = PackOptions { whiteouts: PackWhiteouts::Oci, ..PackOptions::default() };
            sandbar_tree::pack(&Base::jail(open(path)?, None), ".", archive, &options)
        }
        LayerSource::Merged { layers, host } => {
            let layers = layers.iter().map(open).collect::<Result<Vec<_>>>()?;
            let shown = |path: &PathBuf| {
                let name =
                    path.file_name().ok_or_else(|| Error::new(ErrorKind::Internal, OPERATION, "a folder of the host without a name"));
                Ok(Shown { name: name?.to_owned(), directory: open(path)? })
            };
            let host = host.iter().map(shown).collect::<Result<Vec<_>>>()?;
            let pack = PackOptions { whiteouts: PackWhiteouts::Oci, ..PackOptions::default() };
            sandbar_tree::pack_merged(&layers, &MergeOptions { shown: &host, pack, ..MergeOptions::default() }, archive)
        }
    };
    packed.map_err(|error| {
        let full = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind);
        match full {
            Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Error::new(ErrorKind::ResourceExhausted, OPERATION, "there is no room in the state folder").with_source(error)
            }
            _ => tree(OPERATION, "a layer cannot be packed", error),
        }
    })
}
