//! Images from this machine's files: which kind of thing a path is.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use sandbar_core::{Error, ErrorKind, Result};

use super::{Digest, ImageName, archive, folder, layer::Layers, layout, store::Finished};

const OPERATION: &str = "image import";

/// Takes in whatever is at a path. `added` gets the layers that were not in the store before.
pub(super) fn import(layers: &Layers, source: &Path, name: Option<&ImageName>, added: &mut Vec<Digest>) -> Result<Finished> {
    let (path, tag) = split_tag(source)?;
    let kind = path.metadata().map_err(|error| Error::io(OPERATION, format!("cannot read {}", path.display()), error))?;
    let mut image = if kind.is_dir() {
        if layout::is_layout(&path) {
            layout::import(layers, &path, tag.as_deref(), added)?
        } else {
            refuse_tag(&path, tag.as_deref())?;
            folder::import(layers, &path, added)?
        }
    } else if kind.is_file() {
        archive::import(layers, &path, tag.as_deref(), added)?
    } else {
        let message = "expected a folder or a regular file";
        return Err(Error::new(ErrorKind::InvalidInput, OPERATION, message).with("path", path.display()));
    };
    if let Some(name) = name {
        (image.names, image.claimed) = (vec![name.key()], Vec::new());
    }
    image.origin = path.canonicalize().unwrap_or(path).display().to_string();
    Ok(image)
}

/// `PATH:TAG`, unless something has exactly that name.
fn split_tag(source: &Path) -> Result<(PathBuf, Option<String>)> {
    if source.symlink_metadata().is_err() {
        let text = source.as_os_str().as_bytes();
        if let Some(colon) = text.iter().rposition(|byte| *byte == b':') {
            let (path, tag) = (Path::new(OsStr::from_bytes(&text[..colon])), String::from_utf8_lossy(&text[colon + 1..]));
            if path.symlink_metadata().is_ok() {
                return Ok((path.to_owned(), Some(tag.into_owned())));
            }
        }
        return Err(Error::new(ErrorKind::NotFound, OPERATION, "no such file or folder").with("path", source.display()));
    }
    Ok((source.to_owned(), None))
}

/// Only what holds several images has tags.
pub(super) fn refuse_tag(path: &Path, tag: Option<&str>) -> Result<()> {
    match tag {
        None => Ok(()),
        Some(tag) => {
            let message = "a tag says which image of several is meant, and there is only one";
            Err(Error::new(ErrorKind::InvalidInput, OPERATION, message).with("path", path.display()).with("tag", tag))
        }
    }
}
