use std::{future::Future, pin::Pin};

use crate::{Subject, World, harness::Account};

/// What a variant is on this machine.
pub enum Availability {
    /// It can be tested by this process.
    Here(Box<Subject>),
    /// It must be tested by a process of this user.
    As(Account),
    /// It cannot be tested, for this reason.
    Unavailable(String),
}

/// A subject that this process tests, or why there is none.
impl From<Result<Subject, String>> for Availability {
    fn from(found: Result<Subject, String>) -> Self {
        match found {
            Ok(subject) => Self::Here(Box::new(subject)),
            Err(reason) => Self::Unavailable(reason),
        }
    }
}

/// Finds out.
pub type Prepare = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = Availability> + Send + 'a>>;

/// A provider in one way of working.
#[derive(Clone, Copy)]
pub struct Variant {
    /// The first part of its tests' names, and what `SANDBAR_REQUIRE` calls it.
    pub name: &'static str,
    /// Finds out whether and how it can be tested.
    pub prepare: Prepare,
}

impl Variant {
    /// Whether `SANDBAR_REQUIRE` (names, with commas between) asks for it: then it fails where it is unavailable.
    pub(super) fn is_required(&self) -> bool {
        std::env::var("SANDBAR_REQUIRE").is_ok_and(|names| names.split(',').any(|name| name.trim() == self.name))
    }
}
