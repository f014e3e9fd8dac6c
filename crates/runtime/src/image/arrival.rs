//! An image that has arrived as one tar, and is not believed yet.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, Read},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use sandbar_core::{Context as _, Error, ErrorKind, Result};
use sandbar_tree::{Limits, Owner, UnpackOptions, Whiteouts};
use serde::Deserialize;

use super::{
    Digest, ImageStore,
    compression::{decompress, explain},
    digest::Hashing,
    error::tree,
    layer::{Expected, Layers, Weight},
    layout::{Source, blob_path, is_layout, paired},
    manifest::{self, Blob, Manifest},
    owned::as_owner,
    privilege::Privilege,
    stop::{Stop, Stoppable},
    temporary::TemporaryFolder,
};

const OPERATION: &str = "import";
const BUFFER: usize = 128 * 1024;

/// A folder for something that arrives. It vanishes with this value.
#[derive(Debug)]
pub(crate) struct Landing {
    folder: TemporaryFolder,
    stop: Stop,
}

/// What has arrived: an OCI layout with one image, whose documents are what their digests say. Layers are verified when they are read.
pub(crate) struct Arrival<'a> {
    landing: &'a Landing,
    layers: &'a Layers,
    source: Source,
    annotations: BTreeMap<String, String>,
    /// The configuration.
    pub(crate) config: Vec<u8>,
    blobs: Vec<(Blob, Digest)>,
}

/// A layer of a checkpoint that was unpacked.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// Where it lies.
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

impl Landing {
    pub(crate) fn new(store: &ImageStore) -> Result<Self> {
        let folder = TemporaryFolder::new(&store.layers.paths)?;
        let stop = Stop::within(folder.path());
        Ok(Self { folder, stop })
    }

    /// Calls off whatever is being done with it.
    pub(crate) fn stop(&self) -> Stop {
        self.stop.clone()
    }
}

impl<'a> Arrival<'a> {
    /// Reads a tar of an OCI layout to its end, and looks at its documents.
    ///
    /// # Errors
    /// `Corrupt` for damage and for what is no such tar; `ResourceExhausted` over the limits or on a full disk.
    pub(crate) fn receive(store: &'a ImageStore, landing: &'a Landing, from: impl Read) -> Result<Self> {
        let layers = &store.layers;
        let path = landing.folder.path().join("layout");
        fs::create_dir(&path).context(OPERATION, || format!("cannot make {}", path.display()))?;
        unpack_archive(layers, landing, from, &path)?;
        if !is_layout(&path) {
            return Err(Error::new(ErrorKind::Corrupt, OPERATION, "this is no tar of an OCI image layout"));
        }
        let source = Source::open(&path)?;
        let index = source.document(Path::new("index.json"))?;
        let Manifest::List(candidates) = Manifest::parse(&index)? else {
            return Err(Error::new(ErrorKind::Corrupt, OPERATION, "the layout's index.json is no index"));
        };
        if candidates.len() != 1 {
            let error = Error::new(ErrorKind::Corrupt, OPERATION, "the layout does not hold one image");
            return Err(error.with("images", candidates.len()));
        }
        let text = source.blob(&manifest::choose(&candidates)?.blob)?;
        let Manifest::Image { config, layers: blobs } = Manifest::parse(&text)? else {
            return Err(Error::new(ErrorKind::Corrupt, OPERATION, "the image has several platforms"));
        };
        let config = source.blob(&config)?;
        let diff_ids = paired(&config, blobs.len())?;
        let annotations = annotations(&text)?;
        Ok(Self { landing, layers, source, annotations, config, blobs: blobs.into_iter().zip(diff_ids).collect() })
    }

    /// What the manifest says under a name.
    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(String::as_str)
    }

    /// The digests of the uncompressed layers, lowest first.
    pub(crate) fn diff_ids(&self) -> Vec<Digest> {
        self.blobs.iter().map(|(_, diff_id)| *diff_id).collect()
    }

    /// Compares a layer with its digest, without using it.
    ///
    /// # Errors
    /// `Corrupt` when it is missing or damaged.
    pub(crate) fn verify(&self, index: usize) -> Result<()> {
        let (blob, _) = self.blob(index)?;
        let (file, _) = self.open(&blob)?;
        let reading = Hashing::new(Stoppable { stream: file, stop: &self.landing.stop });
        blob.digest.expect(OPERATION, "layer", reading.finish().context(OPERATION, || "cannot read a layer".to_owned())?)
    }

    /// Adds a layer to the store, or verifies it if the store has it; tells whether it is new.
    ///
    /// # Errors
    /// `Corrupt` for damage and for archives that reach outside; `ResourceExhausted`. Nothing is left of the layer then.
    pub(crate) fn add(&self, index: usize) -> Result<Option<Digest>> {
        let (blob, diff_id) = self.blob(index)?;
        if self.layers.has(&diff_id) {
            return self.verify(index).map(|()| None);
        }
        let (file, size) = self.open(&blob)?;
        let stream = Stoppable { stream: file, stop: &self.landing.stop };
        self.layers.add(stream, size, Some(Expected { diff_id, blob: Some(blob.digest) }))?;
        Ok(Some(diff_id))
    }

    /// Unpacks a layer of a checkpoint, which belongs to nobody else, with the owners that it has.
    ///
    /// # Errors
    /// As [`add`](Self::add); also for owners that this user has no ids for.
    pub(crate) fn unpack(&self, index: usize) -> Result<Unpacked> {
        let (blob, diff_id) = self.blob(index)?;
        let path = self.landing.folder.path().join(format!("layer-{index}"));
        make_layer(&path)?;
        let archive = self.landing.folder.path().join("layout").join(blob_path(&blob.digest));
        let size = self.open(&blob)?.1;
        let options = self.options(self.layers.limits.unpacked(size))?;
        let expected = Expected { diff_id, blob: Some(blob.digest) };
        let stop = &self.landing.stop;
        let weight = as_owner(OPERATION, || unpack_layer(&archive, &path, expected, &options, stop))?;
        Ok(Unpacked { path, bytes: weight.bytes, entries: weight.entries })
    }

    /// An empty layer.
    pub(crate) fn empty(&self) -> Result<Unpacked> {
        let path = self.landing.folder.path().join("layer-empty");
        make_layer(&path)?;
        Ok(Unpacked { path, bytes: 0, entries: 0 })
    }

    /// A sandbox makes no devices, so no honest layer of a checkpoint has one, `/dev` included.
    fn options(&self, limit: u64) -> Result<UnpackOptions> {
        let one_id = crate::system::layer_ids()? == 1;
        Ok(UnpackOptions {
            owner: if one_id { Owner::Ignore } else { Owner::Keep },
            capabilities: true,
            devices_left_out_of: None,
            whiteouts: Whiteouts::Oci(Privilege::here().overlay()),
            ..self.layers.options(limit)
        })
    }

    fn blob(&self, index: usize) -> Result<(Blob, Digest)> {
        let missing = || Error::new(ErrorKind::Corrupt, OPERATION, "the image has fewer layers than it says");
        self.blobs.get(index).cloned().ok_or_else(missing)
    }

    fn open(&self, blob: &Blob) -> Result<(File, u64)> {
        let file = self.source.file(&blob_path(&blob.digest))?;
        let size = file.metadata().context(OPERATION, || "cannot read a layer".to_owned())?.len();
        Ok((file, size))
    }
}

/// What a root directory has, unless the archive says otherwise; not what the umask leaves. The folder around it is closed.
fn make_layer(path: &Path) -> Result<()> {
    let made = fs::create_dir(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    made.context(OPERATION, || format!("cannot make {}", path.display()))
}

fn annotations(manifest: &[u8]) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Annotated {
        #[serde(default)]
        annotations: Option<BTreeMap<String, String>>,
    }
    let read: Annotated = serde_json::from_slice(manifest)
        .map_err(|source| Error::new(ErrorKind::Corrupt, OPERATION, "the annotations of the manifest are damaged").with_source(source))?;
    Ok(read.annotations.unwrap_or_default())
}

/// The members of the archive are data and nothing else.
fn unpack_archive(layers: &Layers, landing: &Landing, from: impl Read, into: &Path) -> Result<()> {
    let limit = layers.limits.layer_bytes;
    let limits = Limits { bytes: limit, entries: 4096, ..Limits::default() };
    let options = UnpackOptions { limits, ..UnpackOptions::default() };
    let folder = File::open(into).context(OPERATION, || format!("cannot open {}", into.display()))?;
    let from = Stoppable { stream: from, stop: &landing.stop };
    let mut stream = decompress(from, limit).map_err(|error| explain(OPERATION, "cannot read the file", error))?;
    let unpacked = sandbar_tree::unpack(&mut stream, &folder, &options);
    unpacked.map_err(|error| tree(OPERATION, "the file cannot be unpacked", error))?;
    // Whoever writes into a pipe shall not hear that nobody reads any more.
    io::copy(&mut stream, &mut io::sink()).map_err(|error| explain(OPERATION, "cannot read the file", error))?;
    Ok(())
}

fn unpack_layer(archive: &Path, into: &Path, expected: Expected, options: &UnpackOptions, stop: &Stop) -> Result<Weight> {
    let file = File::open(archive).context(OPERATION, || "cannot read a layer".to_owned())?;
    let archive = BufReader::with_capacity(BUFFER, Stoppable { stream: file, stop });
    let folder = File::open(into).context(OPERATION, || format!("cannot open {}", into.display()))?;
    let (_, weight) = Layers::unpack_as(archive, options.limits.bytes, Some(expected), options, &folder)?;
    // What was unpacked has a name soon, and nobody compares it with its digest again.
    crate::system::flush(&folder).context(OPERATION, || "cannot write the layer to disk".to_owned())?;
    Ok(weight)
}
