use sandbar_core::{Error, ErrorKind};
use serde::Serialize;

use crate::error::Outcome;

/// Prints a value as JSON, for scripts (`jq`) and people alike.
///
/// # Errors
/// As [`line`](super::line).
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Outcome {
    let text = serde_json::to_string_pretty(value)
        .map_err(|source| Error::new(ErrorKind::Internal, "json", "cannot write the answer as JSON").with_source(source))?;
    super::line(&text)
}
