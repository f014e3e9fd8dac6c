//! `--on` of what is no sandbox's: images, kernels, templates, keys, the audit log, what `doctor` and `gc` find.

use std::path::Path;

use sandbar_core::{Context, Error, ErrorKind, Result};
use sandbar_runtime::{Elsewhere, Runtime};
use tokio::fs::File;

use crate::error::{Failure, Outcome};

/// The other host that a place names, if one is named.
pub(super) fn other_host(runtime: &Runtime, place: Option<&str>, what: &'static str) -> Result<Option<Elsewhere>> {
    let Some(place) = place else { return Ok(None) };
    runtime.providers().elsewhere(place)?.ok_or_else(|| of_all_providers(what, place)).map(Some)
}

/// Says that a provider of this host was named where only another host has things of its own.
pub(super) fn of_all_providers(what: &'static str, place: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, what, format!("all providers of this host have the same {what}"))
        .with("on", format!("{place:?}"))
        .with_hint("leave --on out, or name another host")
}

/// A file to be sent, or `None` for a folder.
pub(super) async fn file(path: &Path, operation: &'static str) -> Result<Option<File>> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).await.context(operation, cannot)?;
    Ok((!file.metadata().await.context(operation, cannot)?.is_dir()).then_some(file))
}

/// Removes all that can be removed; what cannot be is told.
pub(super) async fn each(names: &[String], mut remove: impl AsyncFnMut(&str) -> Result<()>) -> Outcome {
    let mut errors = Vec::new();
    for name in names {
        errors.extend(remove(name).await.err());
    }
    Failure::from_all(errors)
}
