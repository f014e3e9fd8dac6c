//! Work on the files of layers, whose owners may be others than this user.

use sandbar_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// An error on its way between two processes.
#[derive(Serialize, Deserialize)]
struct Told {
    kind: String,
    text: String,
}

/// Does the work with the ids that sandboxes see. What it needs it must open by path, since it may be done by another process.
///
/// # Errors
/// What the work says.
pub(super) fn as_owner<T: Serialize + DeserializeOwned>(operation: &'static str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if rustix::process::geteuid().is_root() {
        return work();
    }
    let told = |error: Error| Told { kind: error.kind().name().to_owned(), text: error.chain() };
    let done: Result<T, Told> = crate::system::as_layer_owner(|| Ok(work().map_err(told)))?;
    done.map_err(|Told { kind, text }| Error::new(ErrorKind::from_name(&kind).unwrap_or(ErrorKind::Internal), operation, text))
}
