use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{OpenOptionsExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{Timespec, Timestamps};
use sandbar_core::{Context, Error, ErrorKind, FileKind, FileStat, Result};
use sandbar_runtime::Sandbox;
use sandbar_tree::UnpackOptions;

use super::{
    bridge,
    destination::{Existing, Place, Thing, asks_for_directory, is_contents, place, split},
    merge::{Staging, merge},
};
use crate::error::Outcome;

/// What a path inside is, and what of it is copied.
pub(super) struct Source {
    pub(super) stat: FileStat,
    pub(super) thing: Thing,
    /// Its name; a directory without one is copied by its contents.
    pub(super) name: Option<String>,
}

impl Source {
    /// Looks at it.
    ///
    /// # Errors
    /// `NotFound`; `InvalidInput` for what is neither a file, a directory nor a link.
    pub(super) async fn find(sandbox: &Sandbox, path: &str, follow: bool) -> Result<Self> {
        let stat = sandbox.stat(path, follow || asks_for_directory(path.as_bytes())).await.map_err(|error| error.with("path", path))?;
        let (_, name) = split(path);
        let thing = match stat.kind {
            FileKind::Directory if is_contents(path.as_bytes()) || name.is_none() => Thing::Contents,
            FileKind::Directory => Thing::Directory,
            FileKind::File | FileKind::Symlink => Thing::File,
            FileKind::Other => {
                return Err(Error::new(ErrorKind::InvalidInput, "cp", "only files, directories and links can be copied").with("path", path));
            }
        };
        if thing == Thing::File && asks_for_directory(path.as_bytes()) {
            return Err(Error::new(ErrorKind::InvalidInput, "cp", "the source is not a directory").with("path", path));
        }
        Ok(Self { stat, thing, name: name.map(ToOwned::to_owned) })
    }
}

/// Copies a path of a sandbox to this machine.
pub(super) async fn download(sandbox: &Sandbox, from: &str, follow: bool, to: &Path) -> Outcome {
    let source = Source::find(sandbox, from, follow).await?;
    let existing = match fs::metadata(to) {
        Ok(metadata) if metadata.is_dir() => Existing::Directory,
        Ok(_) => Existing::Other,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Existing::Nothing,
        Err(error) => return Err(Error::io("cp", "cannot look at the destination", error).with("path", to.display()).into()),
    };
    let place = place(source.thing, existing, asks_for_directory(to.as_os_str().as_bytes()))
        .map_err(|error| error.with("destination", to.display()))?;
    let target = match (place, &source.name) {
        (Place::Inside, Some(name)) => to.join(name),
        // A link at the destination's end leads on, as it would for a writer.
        (Place::There, _) if to.is_file() => fs::canonicalize(to).context("cp", || format!("cannot follow {}", to.display()))?,
        _ => to.to_owned(),
    };
    match (source.thing, &source.stat.symlink_target) {
        (Thing::File, Some(link)) if source.stat.kind == FileKind::Symlink => Ok(put_link(link, &target)?),
        (Thing::File, _) => Ok(file(sandbox, from, target).await?),
        (Thing::Directory | Thing::Contents, _) => Ok(directory(sandbox, from, target, place).await?),
    }
}

/// The directory that a path is in; it must exist.
fn parent(path: &Path) -> Result<&Path> {
    // A trailing slash is no component, so this is right for `a/b/` as well.
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Err(Error::new(ErrorKind::InvalidInput, "cp", "the destination has no parent").with("destination", path.display())),
    };
    if parent.is_dir() {
        Ok(parent)
    } else {
        Err(Error::new(ErrorKind::NotFound, "cp", "the destination's parent is not a directory").with("parent", parent.display()))
    }
}

/// Makes a link that leads wherever the sandbox says; nothing here follows it.
fn put_link(link: &str, target: &Path) -> Result<()> {
    let staging = Staging::new(parent(target)?)?;
    let made = staging.entry("link");
    symlink(link, &made).context("cp", || format!("cannot make the link {}", target.display()))?;
    merge(&made, target)
}

async fn file(sandbox: &Sandbox, from: &str, target: PathBuf) -> Result<()> {
    let (stat, content) = sandbox.get_file(from, 0).await?;
    let (reader, carry) = bridge::from_stream(content);
    let write = tokio::task::spawn_blocking(move || put_file(&stat, reader, &target));
    carry.await;
    write.await.map_err(joined)?
}

fn put_file(stat: &FileStat, mut content: impl Read, target: &Path) -> Result<()> {
    let failed = || format!("cannot write {}", target.display());
    // A pipe, a terminal, /dev/null: written to, as any program would.
    if fs::metadata(target).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        let mut special = OpenOptions::new().write(true).open(target).context("cp", failed)?;
        io::copy(&mut content, &mut special).context("cp", failed)?;
        return Ok(());
    }
    let staging = Staging::new(parent(target)?)?;
    let path = staging.entry("file");
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).context("cp", failed)?;
    io::copy(&mut content, &mut file).context("cp", failed)?;
    set_metadata(&file, stat).context("cp", failed)?;
    merge(&path, target)
}

/// Mode and time; no set-id bits, which a stranger must not hand out in our name.
fn set_metadata(file: &File, stat: &FileStat) -> io::Result<()> {
    const SECOND: i64 = 1_000_000_000;
    file.set_permissions(Permissions::from_mode(stat.mode & 0o777))?;
    let time = Timespec { tv_sec: stat.modified_ns.div_euclid(SECOND), tv_nsec: stat.modified_ns.rem_euclid(SECOND) };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?)
}

async fn directory(sandbox: &Sandbox, from: &str, target: PathBuf, place: Place) -> Result<()> {
    let beside = match place {
        Place::There => parent(&target)?.to_owned(),
        Place::Inside => parent(&target)?.to_owned(),
        Place::Into => target.clone(),
    };
    let content = sandbox.get_dir(from).await?;
    let (reader, carry) = bridge::from_stream(content);
    let unpack = tokio::task::spawn_blocking(move || {
        let staging = Staging::new(&beside)?;
        let tree = staging.entry("tree");
        fs::create_dir(&tree).context("cp", || format!("cannot write to {}", beside.display()))?;
        let directory = File::open(&tree).context("cp", || format!("cannot write to {}", beside.display()))?;
        sandbar_tree::unpack(reader, &directory, &UnpackOptions::default())
            .map_err(|error| Error::io("cp", "the sandbox's files cannot be copied here", error.into()))?;
        merge(&tree, &target)
    });
    carry.await;
    unpack.await.map_err(joined)?
}

fn joined(error: tokio::task::JoinError) -> Error {
    Error::new(ErrorKind::Internal, "cp", "copying failed").with_source(error)
}
