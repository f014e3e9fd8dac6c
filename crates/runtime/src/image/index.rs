//! The list of images and names: one file, replaced as a whole.

use std::{collections::BTreeMap, fs, io, io::Write as _, path::Path};

use sandbar_core::{Context as _, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use super::{Digest, lock::FileLock, name, paths::Paths};

const OPERATION: &str = "image index";
const VERSION: u32 = 1;

/// What the store knows by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    version: u32,
    /// By the digest of the configuration, which is the image's id.
    pub(super) images: BTreeMap<Digest, Entry>,
    pub(super) names: BTreeMap<String, Digest>,
}

/// One image. What it is made of is in its configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The manifest of this platform, for images that came with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) manifest: Option<Digest>,
    /// The list of platforms that the manifest was chosen from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) list: Option<Digest>,
    /// Where it came from, for people.
    pub(super) origin: String,
    /// Milliseconds since 1970.
    pub(super) added_ms: u64,
    /// Removed by its user while a sandbox or a checkpoint still needed it: invisible, and collected later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) removed: bool,
}

impl Default for Index {
    fn default() -> Self {
        Self { version: VERSION, images: BTreeMap::new(), names: BTreeMap::new() }
    }
}

impl Index {
    /// The index as it is now. Needs no lock, since it is only ever replaced.
    pub(super) fn read(paths: &Paths) -> Result<Self> {
        let path = paths.index();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error).context(OPERATION, || format!("cannot read {}", path.display())),
        };
        let damaged = |source: serde_json::Error| {
            Error::new(ErrorKind::Corrupt, OPERATION, format!("{} is damaged", path.display()))
                .with_hint("move it away, then pull or import the images again; what is unpacked already is not fetched twice")
                .with_source(source)
        };
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let Versioned { version } = serde_json::from_slice(&text).map_err(damaged)?;
        if version > VERSION {
            let message = "the index of images was written by a newer sandbar";
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, message).with("version", version).with("supported", VERSION));
        }
        serde_json::from_slice(&text).map_err(damaged)
    }

    /// Changes the index, alone, and durably.
    pub(super) fn change<T>(paths: &Paths, change: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let _lock = FileLock::exclusive(&paths.index_lock())?;
        let before = Self::read(paths)?;
        let mut index = before.clone();
        let result = change(&mut index)?;
        if index != before {
            let text = serde_json::to_vec_pretty(&index)
                .map_err(|source| Error::new(ErrorKind::Internal, OPERATION, "the index cannot be written as JSON").with_source(source))?;
            replace(&paths.index(), &text)?;
        }
        Ok(result)
    }

    /// Adds an image, or makes a removed one visible again, and names it.
    pub(super) fn add(&mut self, id: Digest, entry: Entry, names: impl IntoIterator<Item = String>) {
        self.images.insert(id, entry);
        self.names.extend(names.into_iter().map(|name| (name, id)));
    }

    /// The image that a person means.
    pub(super) fn find(&self, reference: &str) -> Result<Digest> {
        let name = name::ImageName::parse(reference);
        if let Ok(name) = &name {
            if let Some(id) = self.names.get(&name.key())
                && name.digest().is_none_or(|digest| self.has_digest(id, digest))
            {
                return Ok(*id);
            }
            // A digest names the content, whatever the tag says today; but only what came under that digest.
            if let Some(digest) = name.digest()
                && let Some(id) = self.visible().map(|(id, _)| id).find(|id| self.has_digest(id, digest))
            {
                return Ok(*id);
            }
        }
        if let Some(prefix) = name::id_prefix(reference) {
            let mut found = self.visible().map(|(id, _)| id).filter(|id| id.hex().starts_with(prefix));
            match (found.next(), found.next()) {
                (Some(id), None) => return Ok(*id),
                (Some(_), Some(_)) => {
                    let message = "several images have an id that begins like this";
                    return Err(Error::new(ErrorKind::InvalidInput, OPERATION, message).with("id", reference));
                }
                _ => {}
            }
        }
        Err(missing(reference, name))
    }

    /// The images that are not removed.
    pub(super) fn visible(&self) -> impl Iterator<Item = (&Digest, &Entry)> {
        self.images.iter().filter(|(_, entry)| !entry.removed)
    }

    /// The names of an image, sorted.
    pub(super) fn names_of(&self, id: &Digest) -> Vec<String> {
        self.names.iter().filter(|(_, named)| *named == id).map(|(name, _)| name.clone()).collect()
    }

    fn has_digest(&self, id: &Digest, digest: Digest) -> bool {
        *id == digest || self.images.get(id).is_some_and(|entry| entry.manifest == Some(digest) || entry.list == Some(digest))
    }
}

fn missing(reference: &str, name: Result<name::ImageName>) -> Error {
    let none = |message| Error::new(ErrorKind::NotFound, "image", message).with("image", reference);
    match name {
        Ok(name) if name.registry().is_some() => {
            none("no such image here").with_hint(format!("fetch it with `sandbar image pull {reference}`"))
        }
        _ if Path::new(reference).exists() => {
            none("no such image here").with_hint(format!("make an image of it with `sandbar image import {reference} --name NAME`"))
        }
        Ok(_) => none("no such image here, and the name says no registry to get it from").with_hint(format!(
            "`sandbar image ls` lists what is here; get it with `sandbar image pull REGISTRY/{reference}`, or \
             `sandbar image import PATH --name {reference}`"
        )),
        Err(error) if name::id_prefix(reference).is_some() => {
            let _ = error;
            none("no image has an id that begins like this").with_hint("`sandbar image ls` lists what is here")
        }
        Err(error) => error,
    }
}

/// Replaces a file so that after a crash it is the old one or the new one.
pub(super) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    replace_with(path, content, fs::File::sync_all)
}

/// Replaces a file in one step, but lets a crash of the machine take it: for what is cheap to make again.
pub(super) fn replace_unsynced(path: &Path, content: &[u8]) -> Result<()> {
    replace_with(path, content, |_| Ok(()))
}

/// Only ever called under a lock that excludes others who write this path.
fn replace_with(path: &Path, content: &[u8], sync: impl FnOnce(&fs::File) -> io::Result<()>) -> Result<()> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(content)?;
        sync(&file)?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).context(OPERATION, || format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry { manifest: Some(Digest::of(b"manifest")), list: None, origin: "test".to_owned(), added_ms: 1, removed: false }
    }

    fn index() -> (Index, Digest) {
        let (mut index, id) = (Index::default(), Digest::of(b"config"));
        index.add(id, entry(), ["base:latest".to_owned(), "r.example/a:t".to_owned()]);
        (index, id)
    }

    #[test]
    fn an_image_is_found_by_name_digest_id_and_prefix() {
        let (index, id) = index();
        let manifest = Digest::of(b"manifest");
        for reference in
            ["base", "base:latest", "r.example/a:t", &id.to_string(), &id.hex(), &id.hex()[..6], &format!("r.example/a@{manifest}")]
        {
            assert_eq!(index.find(reference).unwrap(), id, "{reference}");
        }
    }

    #[test]
    fn a_name_with_another_digest_is_another_image() {
        let (index, _) = index();
        let other = Digest::of(b"other");
        assert_eq!(index.find(&format!("r.example/a:t@{other}")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_is_missing_is_told_with_the_way_to_get_it() {
        let (index, _) = index();
        let hint = |reference: &str| index.find(reference).unwrap_err().hint().unwrap().to_owned();
        assert!(hint("r.example/b").contains("image pull r.example/b"));
        assert!(hint("debian").contains("pull REGISTRY/debian"));
        assert!(hint("/").contains("image import /"));
    }

    #[test]
    fn removed_images_are_not_found() {
        let (mut index, id) = index();
        index.names.clear();
        if let Some(entry) = index.images.get_mut(&id) {
            entry.removed = true;
        }
        assert_eq!(index.find(&id.to_string()).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn the_index_survives_a_round_trip_and_refuses_a_newer_one() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::new(folder.path().to_owned());
        let (expected, id) = index();
        Index::change(&paths, |index| {
            index.add(id, entry(), ["base:latest".to_owned(), "r.example/a:t".to_owned()]);
            Ok(())
        })
        .unwrap();
        assert_eq!(Index::read(&paths).unwrap(), expected);
        fs::write(paths.index(), r#"{"version": 99}"#).unwrap();
        assert_eq!(Index::read(&paths).unwrap_err().kind(), ErrorKind::Unsupported);
        fs::write(paths.index(), "{").unwrap();
        assert_eq!(Index::read(&paths).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
