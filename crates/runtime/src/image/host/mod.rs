//! The image `host`: this host's programs, read-only, over a small skeleton with an `/etc` of our making.
//!
//! The skeleton is a folder like any layer. It holds what is copied from the host's `/etc` by an allow-list, files made
//! here (`passwd`, `hosts` …), empty writable folders, and mount points for the host's folders. It is known by a
//! fingerprint over everything in it, over the host's release and over the list of folders; a changed host gives
//! another skeleton, and sandboxes that began on the old one keep it.
//!
//! | module | noun |
//! |---|---|
//! | `allowed` | what of `/etc` is shown |
//! | `gather` | reading it: nothing but what every user may read, and no key |
//! | `made` | what is made instead of copied |
//! | `skeleton` | the tree in memory, its fingerprint, and writing it down |
//! | `stamp` | whether the last one still stands, in a fraction of a millisecond |

mod allowed;
mod gather;
mod made;
mod skeleton;
mod stamp;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use sandbar_core::{Context as _, Error, ErrorKind, HostImage, ImageKind, Result, RootSource};

use super::{config::DEFAULT_PATH, lock::FileLock, paths::Paths};
use gather::Host;
use stamp::Stamp;

const OPERATION: &str = "host image";

/// The image `host` as the host is now; made if it is not there.
pub(super) fn root(paths: &Paths) -> Result<RootSource> {
    root_from(paths, Path::new("/"))
}

fn root_from(paths: &Paths, host: &Path) -> Result<RootSource> {
    if let Some(stamp) = Stamp::standing(paths, host) {
        return Ok(source(paths, stamp.fingerprint, stamp.folders));
    }
    // Fifty first commands at once make one skeleton.
    let _lock = FileLock::exclusive(&paths.host_lock())?;
    if let Some(stamp) = Stamp::standing(paths, host) {
        return Ok(source(paths, stamp.fingerprint, stamp.folders));
    }
    let host = Host::gather(host)?;
    let fingerprint = skeleton::keep(paths, &host)?;
    let stamp = Stamp::new(fingerprint, &host)?;
    stamp.write(paths)?;
    Ok(source(paths, stamp.fingerprint, stamp.folders))
}

/// The image `host` as it was under this fingerprint, over the host's folders as they are now.
pub(super) fn existing(paths: &Paths, fingerprint: &str) -> Result<RootSource> {
    let plain = fingerprint.len() == skeleton::FINGERPRINT_DIGITS && fingerprint.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !plain || !paths.host_tree(fingerprint).is_dir() {
        return Err(Error::new(
            ErrorKind::NotFound,
            OPERATION,
            "this is bound to another host, or to this one before its programs were changed",
        )
        .with("fingerprint", fingerprint));
    }
    let folders = gather::folders(Path::new("/"))?.folders;
    Ok(source(paths, fingerprint.to_owned(), folders))
}

/// The skeletons that are neither the present one nor in use.
pub(super) fn outdated(paths: &Paths, in_use: &BTreeSet<String>) -> Result<Vec<PathBuf>> {
    let present = Stamp::read(paths).map(|stamp| stamp.fingerprint);
    let listing = || format!("cannot list {}", paths.host().display());
    let mut outdated = Vec::new();
    for entry in fs::read_dir(paths.host()).context(OPERATION, listing)? {
        let entry = entry.context(OPERATION, listing)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && Some(&name) != present.as_ref() && !in_use.contains(&name) {
            outdated.push(entry.path());
        }
    }
    Ok(outdated)
}

fn source(paths: &Paths, fingerprint: String, folders: Vec<PathBuf>) -> RootSource {
    let env = [("PATH", DEFAULT_PATH), ("LANG", "C.UTF-8")];
    RootSource {
        layers: vec![paths.host_tree(&fingerprint)],
        saved_layers: Vec::new(),
        kind: ImageKind::Host { fingerprint },
        host: Some(HostImage { folders }),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect::<BTreeMap<_, _>>(),
        workdir: None,
        user: None,
    }
}

#[cfg(test)]
mod tests;
