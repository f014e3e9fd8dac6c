use std::fmt::Display;

use sandbar_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Entries of a page, where nothing is said.
const USUAL: u32 = 100;
/// Entries of a page, at most.
const MOST: u32 = 1000;

/// Which part of a list is wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wanted {
    /// At most this many entries: 1 to 1000, 100 if it is left out.
    pub(crate) limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub(crate) cursor: Option<String>,
}

/// A list, or a page of it where one was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Listing<T: ToSchema> {
    /// All of it, where neither `limit` nor `cursor` was given.
    All(Vec<T>),
    /// A page.
    Part(Page<T>),
}

/// A part of a list, the oldest entries first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T: ToSchema> {
    items: Vec<T>,
    /// Where the next page begins; left out on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl Wanted {
    /// Whether a part was asked for at all.
    pub(crate) fn is_part(&self) -> bool {
        self.limit.is_some() || self.cursor.is_some()
    }

    /// # Errors
    /// `InvalidInput` for a number out of bounds.
    pub(crate) fn limit(&self) -> Result<usize> {
        limit(self.limit)
    }

    /// The moment (Unix milliseconds) and the id after which the page begins.
    ///
    /// # Errors
    /// `InvalidInput` for a cursor that no page had.
    pub(crate) fn after(&self) -> Result<Option<(u64, &str)>> {
        let Some(cursor) = &self.cursor else { return Ok(None) };
        let after = cursor.split_once('.').and_then(|(moment, id)| Some((moment.parse().ok()?, id)));
        let bad = || Error::new(ErrorKind::InvalidInput, "list", "not a cursor of this server").with("value", format!("{cursor:?}"));
        after.map(Some).ok_or_else(bad)
    }
}

/// How many entries a page has at most, by what was said about it.
///
/// # Errors
/// `InvalidInput` for a number out of bounds.
pub(crate) fn limit(said: Option<u32>) -> Result<usize> {
    match said.unwrap_or(USUAL) {
        limit @ 1..=MOST => Ok(limit as usize),
        limit => Err(Error::new(ErrorKind::InvalidInput, "list", format!("the limit is 1 to {MOST}")).with("value", limit)),
    }
}

impl<T: ToSchema> Page<T> {
    /// A page, and where the next one begins, as in [`Wanted::after`].
    pub(crate) fn new(items: Vec<T>, next: Option<(u64, impl Display)>) -> Self {
        Self { items, next_cursor: next.map(|(moment, id)| format!("{moment}.{id}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_says_where_the_next_page_begins() {
        let wanted = |cursor: &str| Wanted { limit: None, cursor: Some(cursor.to_owned()) };
        assert_eq!(wanted("12.sb-x").after().unwrap(), Some((12, "sb-x")));
        assert!(wanted("x").after().is_err() && wanted("x.y").after().is_err());
        assert!(Wanted { limit: Some(0), cursor: None }.limit().is_err());
        assert_eq!(Wanted::default().limit().unwrap(), 100);
    }
}
