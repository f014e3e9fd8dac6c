use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use rustix::fs::{FlockOperation, flock};
use sandbar_core::{Context as _, Error, ErrorKind, ImageKind, Result, RootSource};
use sandbar_tree::{Below, MergeOptions, PackOptions, pack_merged};
use sha2::{Digest as _, Sha256};

use super::staging::Staging;

const OPERATION: &str = "root image";
/// Of squashfs-tools, since 4.5: makes an image of a tar stream, with owners, devices, links and attributes, and without privilege.
const SQFSTAR: [&str; 3] = ["/usr/bin/sqfstar", "/bin/sqfstar", "/usr/local/bin/sqfstar"];
const SUFFIX: &str = ".squashfs";

/// Read-only disks made from layers.
///
/// They are not compressed: they are read through the host's page cache by all guests at once, an emulated processor is slow at
/// decompressing, and every kernel with squashfs can read them, whichever compressors it has.
#[derive(Debug, Clone)]
pub struct RootImage {
    folder: PathBuf,
}

impl RootImage {
    /// Those of a state folder. Touches nothing.
    pub fn new(home: &Path) -> Self {
        Self { folder: home.join("root-images") }
    }

    /// Whether images can be made here.
    pub fn is_available() -> bool {
        program().is_some()
    }

    /// Makes a disk of an empty layer in a folder, which shows whether that works here. Blocks for some milliseconds.
    ///
    /// # Errors
    /// `Unavailable` without `sqfstar`; what that says; of the file system.
    pub fn rehearse(folder: &Path) -> Result<()> {
        let layer = folder.join("layer");
        fs::create_dir(&layer).context(OPERATION, || format!("cannot make {}", layer.display()))?;
        make(&[layer], Below::Nothing, &folder.join("image"))
    }

    /// The disk of a root's image layers, made at the first use and shared by all guests. Blocks for a second or so when it must be made.
    ///
    /// # Errors
    /// `Unsupported` for an image without layers (`host`); `Unavailable` without `sqfstar`; of the file system.
    pub fn of(&self, root: &RootSource) -> Result<PathBuf> {
        let path = self.folder.join(Self::name(root)?);
        if path.exists() {
            return Ok(path);
        }
        let staging = Staging::new(&self.folder)?;
        // Whoever else wants the same waits here, and finds it made.
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(self.folder.join(".lock"));
        let lock = lock.context(OPERATION, || "cannot open the lock".to_owned())?;
        flock(&lock, FlockOperation::LockExclusive).map_err(io::Error::from).context(OPERATION, || "cannot take the lock".to_owned())?;
        if !path.exists() {
            let new = staging.path().join("image");
            make(&root.layers, Below::Nothing, &new)?;
            fs::rename(&new, &path).context(OPERATION, || format!("cannot keep {}", path.display()))?;
        }
        Ok(path)
    }

    /// The disk of the layers of a checkpoint, to lie above an image's, at `path`. Costs what the layers hold.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn of_saved(layers: &[PathBuf], path: &Path) -> Result<()> {
        make(layers, Below::Layers, path)
    }

    /// The name of a root's disk: of the image and its layers, so that equal roots have one.
    ///
    /// # Errors
    /// `Unsupported` for an image without layers.
    pub fn name(root: &RootSource) -> Result<String> {
        let ImageKind::Layers { digest } = &root.kind else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                OPERATION,
                "a virtual machine needs an image made of layers; the image `host` is for containers",
            )
            .with_hint("sandbar setup qemu makes the image `base`; or: sandbar image pull, sandbar image import"));
        };
        let mut hash = Sha256::new_with_prefix(digest);
        for layer in &root.layers {
            hash.update([0]);
            hash.update(layer.as_os_str().as_encoded_bytes());
        }
        // Whose its files are said to be is another content.
        hash.update([0, u8::from(is_all_ours())]);
        let name = hex::encode(&hash.finalize()[..16]);
        Ok(format!("{name}{SUFFIX}"))
    }

    /// Removes the disks of roots that are not among `kept`; tells the bytes. Guests that run keep theirs.
    ///
    /// # Errors
    /// Of the file system.
    pub fn collect(&self, kept: &[RootSource]) -> Result<u64> {
        let kept: Vec<String> = kept.iter().filter_map(|root| Self::name(root).ok()).collect();
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(SUFFIX) && !kept.contains(&name) {
                removed += entry.metadata().map_or(0, |metadata| metadata.len());
                fs::remove_file(entry.path()).context(OPERATION, || format!("cannot remove {}", entry.path().display()))?;
            }
        }
        Ok(removed)
    }
}

fn program() -> Option<&'static str> {
    SQFSTAR.into_iter().find(|path| Path::new(path).exists())
}

/// Whether everything in layers is this user's: only root can give files to others. What is ours is the guest's root's then, as in a user namespace of
/// one id.
fn is_all_ours() -> bool {
    !rustix::process::geteuid().is_root()
}

/// The root directory is the topmost layer's. It is told apart, since the program takes no entry for it.
fn root_options(layer: Option<&File>) -> Result<Vec<String>> {
    let Some(layer) = layer else { return Ok(Vec::new()) };
    let metadata = layer.metadata().context(OPERATION, || "cannot look at the layer".to_owned())?;
    let (uid, gid) = if is_all_ours() { (0, 0) } else { (metadata.uid(), metadata.gid()) };
    let options = [
        ("-root-mode", format!("{:o}", metadata.mode() & 0o7777)),
        ("-root-uid", uid.to_string()),
        ("-root-gid", gid.to_string()),
        ("-root-time", metadata.mtime().max(0).to_string()),
    ];
    Ok(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect())
}

fn make(layers: &[PathBuf], below: Below, path: &Path) -> Result<()> {
    let program = program().ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, OPERATION, "sqfstar is missing")
            .with_hint("install squashfs-tools 4.5 or newer: sandbar setup qemu")
    })?;
    let open = |path: &PathBuf| File::open(path).context(OPERATION, || format!("cannot open the layer {}", path.display()));
    let layers = layers.iter().map(open).collect::<Result<Vec<File>>>()?;
    let mut child = Command::new(program)
        .args(["-no-progress", "-quiet", "-noI", "-noD", "-noF", "-noX", "-no-fragments", "-no-duplicates"])
        .args(root_options(layers.last())?)
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(OPERATION, || format!("cannot run {program}"))?;
    let (input, errors) = (child.stdin.take(), child.stderr.take());
    let listening = thread::spawn(move || {
        const MOST: u64 = 64 << 10;
        let mut said = String::new();
        let mut errors = errors?;
        let _ = io::Read::read_to_string(&mut io::Read::take(&mut errors, MOST), &mut said);
        // What is over is read as well, or the program would stand still.
        let _ = io::copy(&mut errors, &mut io::sink());
        Some(said)
    });
    let packed = input.map_or_else(
        || Err(Error::new(ErrorKind::Internal, OPERATION, "the program has no input")),
        |input| {
            let mut stream = BufWriter::with_capacity(256 << 10, input);
            // The program takes no entry for the root.
            let pack = PackOptions { root_entry: false, as_root: is_all_ours(), ..PackOptions::default() };
            let layers: Vec<_> = layers.into_iter().map(Into::into).collect();
            pack_merged(&layers, &MergeOptions { below, pack, ..MergeOptions::default() }, &mut stream)
                .map_err(|error| Error::new(ErrorKind::Corrupt, OPERATION, "the layers cannot be merged").with_source(error))
                .and_then(|_| stream.flush().context(OPERATION, || "cannot write the image".to_owned()))
        },
    );
    let status = child.wait().context(OPERATION, || format!("cannot wait for {program}"))?;
    let said = listening.join().ok().flatten().unwrap_or_default();
    if status.success() && packed.is_ok() {
        return Ok(());
    }
    let _ = fs::remove_file(path);
    // Where the program failed, writing to it failed too, and what it says is the reason.
    if status.success() {
        packed
    } else {
        Err(Error::new(ErrorKind::Internal, OPERATION, "sqfstar failed")
            .with("status", status)
            .with_source(io::Error::other(said.trim().to_owned())))
    }
}
