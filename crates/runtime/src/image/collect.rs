//! What nothing needs any more, and its removal.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use sandbar_core::{Context as _, ImageKind, Result, RootSource};

use super::{
    Collected, Digest, Removed, host,
    index::Index,
    layer::Layers,
    lock::FileLock,
    name::ImageName,
    store,
    temporary::{self, TemporaryFolder},
};

const OPERATION: &str = "image collect";

/// How long an interrupted download waits for somebody to resume it.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Removes a name or an image, then what nothing needs any more.
pub(super) fn remove(layers: &Layers, reference: &str, in_use: impl FnOnce() -> Result<Vec<RootSource>>) -> Result<Removed> {
    let (id, names, named) = Index::change(&layers.paths, |index| {
        let id = index.find(reference)?;
        // What was named by its id goes with all its names.
        let key = ImageName::parse(reference).ok().map(|name| name.key());
        let names = match key.filter(|key| index.names.get(key) == Some(&id)) {
            Some(key) => vec![key],
            None => index.names_of(&id),
        };
        index.names.retain(|name, _| !names.contains(name));
        let named = !index.names_of(&id).is_empty();
        if !named && let Some(entry) = index.images.get_mut(&id) {
            entry.removed = true;
        }
        Ok((id, names, named))
    })?;
    let collected = collect(layers, in_use)?;
    let in_use = !named && !collected.busy && Index::read(&layers.paths)?.images.contains_key(&id);
    Ok(Removed { id, names, named, in_use, collected })
}

/// Removes what nothing needs.
pub(super) fn collect(layers: &Layers, in_use: impl FnOnce() -> Result<Vec<RootSource>>) -> Result<Collected> {
    let paths = &layers.paths;
    let mut collected = Collected { leavings: temporary::sweep(paths)?, ..Collected::default() };
    let Some(lock) = FileLock::try_exclusive(&paths.lock())? else {
        collected.busy = true;
        return Ok(collected);
    };
    let used = Used::of(&in_use()?);
    let index = Index::change(paths, |index| {
        index.images.retain(|id, entry| !entry.removed || used.images.contains(id));
        let images = &index.images;
        index.names.retain(|_, id| images.contains_key(id));
        Ok(index.clone())
    })?;
    let mut needed = needed(layers, &index);
    needed.extend(&used.layers);
    // Renamed away under the lock, which is quick; removed after it, which is not.
    let away = TemporaryFolder::new(paths)?;
    for (name, path) in entries(&paths.layers())? {
        if Digest::from_hex(&name).is_none_or(|diff_id| !needed.contains(&diff_id)) {
            if let Some(diff_id) = Digest::from_hex(&name) {
                collected.bytes += layers.weight(&diff_id).bytes;
            }
            move_away(&path, &away)?;
            collected.layers += 1;
        }
    }
    let documents: BTreeSet<_> =
        index.images.iter().flat_map(|(id, entry)| [Some(*id), entry.manifest]).flatten().map(|digest| digest.hex()).collect();
    for (name, path) in entries(&paths.blobs())? {
        if !documents.contains(&name) {
            move_away(&path, &away)?;
        }
    }
    for (_, path) in entries(&paths.downloads())? {
        if is_old(&path) {
            move_away(&path, &away)?;
        }
    }
    // Whoever works on a layer has the lock that we hold: these are of the killed.
    for (_, path) in entries(&paths.locks())? {
        move_away(&path, &away)?;
    }
    for path in host::outdated(paths, &used.fingerprints)? {
        move_away(&path, &away)?;
        collected.skeletons += 1;
    }
    drop(lock);
    drop(away);
    Ok(collected)
}

/// Removes layers that an addition brought which then failed, unless an image needs them by now. What is in use is in
/// the index, so nobody has to be asked. If somebody else is at work they stay until the next collection.
pub(super) fn forget(layers: &Layers, added: &[Digest]) {
    let paths = &layers.paths;
    let forget = || -> Result<()> {
        let Some(lock) = FileLock::try_exclusive(&paths.lock())? else { return Ok(()) };
        let needed = needed(layers, &Index::read(paths)?);
        let away = TemporaryFolder::new(paths)?;
        for diff_id in added.iter().filter(|diff_id| !needed.contains(diff_id)) {
            move_away(&paths.layer(diff_id), &away)?;
        }
        drop(lock);
        Ok(())
    };
    if let Err(error) = forget() {
        tracing::debug!("layers of a failed addition are left for a collection: {}", error.chain());
    }
}

/// The layers that the images of the index need.
fn needed(layers: &Layers, index: &Index) -> BTreeSet<Digest> {
    let mut needed = BTreeSet::new();
    for id in index.images.keys() {
        match store::read_config(&layers.paths, id) {
            Ok(config) => needed.extend(config.diff_ids),
            // It cannot be run; whoever runs it already is in the ledger, with the layers by name.
            Err(error) => tracing::warn!(image = %id, "layers of an unreadable image are not kept: {}", error.chain()),
        }
    }
    needed
}

/// What sandboxes and checkpoints need.
#[derive(Default)]
struct Used {
    images: BTreeSet<Digest>,
    layers: BTreeSet<Digest>,
    fingerprints: BTreeSet<String>,
}

impl Used {
    fn of(roots: &[RootSource]) -> Self {
        let mut used = Self::default();
        for root in roots {
            match &root.kind {
                ImageKind::Layers { digest } => used.images.extend(digest.parse::<Digest>().ok()),
                ImageKind::Host { fingerprint } => drop(used.fingerprints.insert(fingerprint.clone())),
                ImageKind::Empty | ImageKind::Elsewhere { .. } => {}
            }
            let folders = root.layers.iter().filter_map(|layer| layer.parent()?.file_name()?.to_str());
            used.layers.extend(folders.filter_map(Digest::from_hex));
        }
        used
    }
}

fn entries(folder: &Path) -> Result<Vec<(String, std::path::PathBuf)>> {
    let listing = || format!("cannot list {}", folder.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).context(OPERATION, listing)? {
        let entry = entry.context(OPERATION, listing)?;
        entries.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    Ok(entries)
}

fn move_away(path: &Path, away: &TemporaryFolder) -> Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    match fs::rename(path, away.path().join(name)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.context(OPERATION, || format!("cannot remove {}", path.display())),
    }
}

fn is_old(path: &Path) -> bool {
    let modified = path.metadata().and_then(|metadata| metadata.modified());
    modified.is_ok_and(|modified| SystemTime::now().duration_since(modified).is_ok_and(|age| age > PATIENCE))
}
