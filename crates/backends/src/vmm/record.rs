use std::{
    fs,
    path::{Path, PathBuf},
};

use sandbar_core::{Context, Error, ErrorKind, Result};
use serde::{Serialize, de::DeserializeOwned};

const OPERATION: &str = "machine record";
/// Enough to start a machine with the same disks.
const RECORD: &str = "machine.json";

/// Writes the record of a machine into its generation's folder, or into that of what is saved of it.
///
/// # Errors
/// Of the file system.
pub(crate) fn write_record(machine: &impl Serialize, folder: &Path) -> Result<()> {
    let text = serde_json::to_vec(machine)
        .map_err(|error| Error::new(ErrorKind::Internal, OPERATION, "the machine's record cannot be written as JSON").with_source(error))?;
    let new = folder.join("machine.new");
    let written = fs::write(&new, text).and_then(|()| fs::rename(&new, folder.join(RECORD)));
    written.context(OPERATION, || "cannot write the machine's record".to_owned())
}

/// Reads it.
///
/// # Errors
/// `Corrupt` when it is none.
pub(crate) fn read_record<Machine: DeserializeOwned>(folder: &Path) -> Result<Machine> {
    let text = fs::read(folder.join(RECORD)).context(OPERATION, || format!("cannot read {}", folder.join(RECORD).display()))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::new(ErrorKind::Corrupt, OPERATION, "the machine's record cannot be read").with_source(error))
}

/// That the shared files are there which a saved machine was made with.
///
/// # Errors
/// `Conflict`, with the first that is not.
pub(crate) fn require<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let Some(missing) = files.into_iter().find(|path| path.is_absolute() && !path.exists()) else { return Ok(()) };
    Err(Error::new(ErrorKind::Conflict, OPERATION, "the saved machine needs a file that is not here any more")
        .with("path", missing.display())
        .with_hint("restore its disk alone: --without-memory"))
}
