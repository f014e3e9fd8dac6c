use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use sandbar_core::{Context, Error, ErrorKind, FileKind, FileStat, PutOptions, Result};
use sandbar_runtime::Sandbox;
use sandbar_tree::{Base, PackOptions};

use super::{
    bridge::{self, BlockingWriter},
    destination::{Existing, Place, Thing, asks_for_directory, is_contents, join, place, split},
    single,
};
use crate::{error::Outcome, output};

/// Links that may lead from one to the next: Linux's own limit, `path_resolution(7)`.
const LINKS: usize = 40;

/// Copies a path of this machine into a sandbox.
pub(super) async fn upload(sandbox: &Sandbox, from: &Path, follow: bool, to: &str) -> Outcome {
    let path = from.as_os_str().as_bytes();
    let looked = if follow || asks_for_directory(path) { fs::metadata(from) } else { fs::symlink_metadata(from) };
    let source = looked.context("cp", || format!("cannot read {}", from.display()))?;
    let thing = match source.is_dir() {
        true if is_contents(path) || from == Path::new("/") => Thing::Contents,
        true => Thing::Directory,
        false => Thing::File,
    };
    let there = find(sandbox, to).await?;
    let existing = match &there {
        None => Existing::Nothing,
        Some(stat) if stat.kind == FileKind::Directory => Existing::Directory,
        Some(_) => Existing::Other,
    };
    let place = place(thing, existing, asks_for_directory(to.as_bytes())).map_err(|error| error.with("destination", to))?;
    if thing == Thing::File {
        return Ok(file(sandbox, from, &source, place, to).await?);
    }
    let target = match place {
        Place::Inside => join(to, &own_name(from)?),
        Place::There | Place::Into => to.to_owned(),
    };
    if place == Place::Inside {
        if find(sandbox, &target).await?.is_some_and(|stat| stat.kind != FileKind::Directory) {
            let message = "a directory cannot be copied onto something that is none";
            return Err(Error::new(ErrorKind::InvalidInput, "cp", message).with("destination", target).into());
        }
    } else if place == Place::There {
        require_parent(sandbox, &target).await?;
    }
    Ok(directory(sandbox, from.to_owned(), &target, place != Place::Into).await?)
}

/// What a path inside leads to; `None` when there is nothing.
pub(super) async fn find(sandbox: &Sandbox, path: &str) -> Result<Option<FileStat>> {
    match sandbox.stat(path, true).await {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn require_parent(sandbox: &Sandbox, path: &str) -> Result<()> {
    let (parent, _) = split(path);
    match find(sandbox, parent).await? {
        Some(stat) if stat.kind == FileKind::Directory => Ok(()),
        Some(_) => Err(Error::new(ErrorKind::InvalidInput, "cp", "the destination's parent is not a directory").with("parent", parent)),
        None => {
            let error = Error::new(ErrorKind::NotFound, "cp", "the destination's parent does not exist").with("parent", parent);
            Err(error.with_hint(format!("make it first: sandbar exec {} -- mkdir -p {parent}", sandbox.id())))
        }
    }
}

/// The name of a path of this machine, for a copy of it.
fn own_name(path: &Path) -> Result<String> {
    let name = match path.file_name() {
        Some(name) => name.to_owned(),
        // `..`: its own name is elsewhere.
        None => {
            let full = fs::canonicalize(path).context("cp", || format!("cannot read {}", path.display()))?;
            full.file_name().map(ToOwned::to_owned).unwrap_or_default()
        }
    };
    name.into_string().map_err(|name| {
        let error = Error::new(ErrorKind::InvalidInput, "cp", "a name given to a sandbox must be UTF-8").with("name", name.display());
        error.with_hint("copy the directory that holds it; in there any name will do")
    })
}

async fn directory(sandbox: &Sandbox, from: PathBuf, to: &str, own_entry: bool) -> Result<()> {
    let opened = File::open(&from).context("cp", || format!("cannot read {}", from.display()))?;
    put(sandbox, to, move |writer| {
        let options = PackOptions { root_entry: own_entry, ..PackOptions::default() };
        let packed = sandbar_tree::pack(&Base::jail(opened, None), ".", writer, &options)?;
        if packed.changed > 0 {
            let names: Vec<_> = packed.changed_paths.iter().take(3).map(|path| path.display().to_string()).collect();
            output::warning(&format!("{} files changed while they were copied: {}", packed.changed, names.join(", ")));
        }
        if packed.sockets > 0 {
            output::warning(&format!("{} sockets were left out", packed.sockets));
        }
        Ok(())
    })
    .await
}

async fn file(sandbox: &Sandbox, from: &Path, source: &fs::Metadata, place: Place, to: &str) -> Result<()> {
    let target = match place {
        Place::Inside => join(to, &own_name(from)?),
        Place::There | Place::Into => to.to_owned(),
    };
    let target = through_links(sandbox, target).await?;
    require_parent(sandbox, &target).await?;
    if find(sandbox, &target).await?.is_some_and(|stat| stat.kind == FileKind::Directory) {
        return Err(Error::new(ErrorKind::InvalidInput, "cp", "a directory cannot be replaced by what is none").with("destination", target));
    }
    let (parent, name) = split(&target);
    let name = name.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "cp", "the destination has no name").with("destination", &target))?;
    let cannot_read = || format!("cannot read {}", from.display());
    let link = source.is_symlink().then(|| fs::read_link(from)).transpose().context("cp", cannot_read)?;
    // Process substitution gives links to pipes; a link to those would be of no use to anybody.
    let is_stream = fs::metadata(from).is_ok_and(|metadata| metadata.file_type().is_fifo() || metadata.file_type().is_char_device());
    if is_stream {
        let from = from.to_owned();
        return stream(sandbox, from, &target).await;
    }
    if link.is_none() && !source.is_file() {
        return Err(
            Error::new(ErrorKind::InvalidInput, "cp", "only files, directories and links can be copied").with("path", from.display())
        );
    }
    let (opened, source) = match &link {
        Some(_) => (None, source.clone()),
        None => {
            let opened = File::open(from).context("cp", cannot_read)?;
            // Of what is open, not of what was there a moment ago.
            let metadata = opened.metadata().context("cp", cannot_read)?;
            (Some(opened), metadata)
        }
    };
    let entry = single::Entry {
        mode: source.mode() & 0o7777,
        modified_ns: i128::from(source.mtime()) * 1_000_000_000 + i128::from(source.mtime_nsec()),
        link: link.map(|target| target.as_os_str().as_bytes().to_vec()),
        size: source.len(),
    };
    let name = name.to_owned();
    put(sandbox, parent, move |writer| match opened {
        Some(opened) => single::pack(&name, &entry, opened, writer),
        None => single::pack(&name, &entry, io::empty(), writer),
    })
    .await
}

/// What is read from a pipe or device, whose size nobody knows.
async fn stream(sandbox: &Sandbox, from: PathBuf, to: &str) -> Result<()> {
    let (mut writer, mut reader) = bridge::to_stream();
    let read = tokio::task::spawn_blocking(move || {
        let copied = File::open(&from).and_then(|mut file| io::copy(&mut file, &mut writer));
        writer.finish(copied.err())
    });
    let put = sandbox.put_file(to, PutOptions::default(), &mut reader).await;
    drop(reader);
    settle(put, read.await)
}

/// Follows the links that end a path, so that a copy replaces what they lead to, as writing to the path would.
async fn through_links(sandbox: &Sandbox, mut path: String) -> Result<String> {
    for _ in 0..LINKS {
        let target = match sandbox.stat(&path, false).await {
            Ok(stat) => stat.symlink_target,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        match target {
            None => return Ok(path),
            Some(target) if target.starts_with('/') => path = target,
            Some(target) => path = join(split(&path).0, &target),
        }
    }
    Err(Error::new(ErrorKind::InvalidInput, "cp", "too many symbolic links").with("destination", path))
}

/// Puts what `pack` writes, as an archive, into a directory.
async fn put(sandbox: &Sandbox, to: &str, pack: impl FnOnce(&mut BlockingWriter) -> io::Result<()> + Send + 'static) -> Result<()> {
    let (mut writer, mut reader) = bridge::to_stream();
    let packed = tokio::task::spawn_blocking(move || {
        let packed = pack(&mut writer).and_then(|()| writer.flush());
        match packed {
            Ok(()) => writer.finish(None),
            Err(error) => {
                let told = io::Error::new(error.kind(), error.to_string());
                writer.finish(Some(told))?;
                Err(error)
            }
        }
    });
    let put = sandbox.put_dir(to, PutOptions::default(), &mut reader).await;
    drop(reader);
    settle(put, packed.await)
}

/// The reason, of two sides of which each fails when the other does.
fn settle(put: Result<()>, packed: Result<io::Result<()>, tokio::task::JoinError>) -> Result<()> {
    match (put, packed) {
        (_, Err(error)) => Err(Error::new(ErrorKind::Internal, "cp", "packing failed").with_source(error)),
        (_, Ok(Err(error))) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::io("cp", "cannot read what is to be copied", error)),
        (put, Ok(_)) => put,
    }
}
