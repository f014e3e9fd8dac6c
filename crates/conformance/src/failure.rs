use std::fmt::Display;

use sandbar_core::{Error, ErrorKind};

/// Why a case did not pass.
#[derive(Debug)]
pub enum Failure {
    /// The provider does not do what the contract says.
    Failed(String),
    /// The case says nothing about this provider here, for this reason.
    Ignored(String),
}

impl Failure {
    /// A broken promise.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// The same, said about `what`.
    #[must_use]
    pub fn during(self, what: impl Display) -> Self {
        match self {
            Self::Failed(message) => Self::Failed(format!("{what}: {message}")),
            ignored @ Self::Ignored(_) => ignored,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let hint = error.hint().map(|hint| format!(" [hint: {hint}]")).unwrap_or_default();
        Self::Failed(format!("{}: {}{hint}", error.kind(), error.chain()))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(format!("i/o: {error}"))
    }
}

impl From<tokio::time::error::Elapsed> for Failure {
    fn from(_: tokio::time::error::Elapsed) -> Self {
        Self::Failed("nothing happened before the deadline".to_owned())
    }
}

impl From<tokio::task::JoinError> for Failure {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::Failed(format!("a task failed: {error}"))
    }
}

/// Expects a refusal of this kind, and gives it back.
pub(crate) fn refused<T>(what: &str, result: Result<T, Error>, kinds: &[ErrorKind]) -> Result<Error, Failure> {
    match result {
        Ok(_) => Err(Failure::new(format!("{what}: succeeded, expected {kinds:?}"))),
        Err(error) if kinds.contains(&error.kind()) => Ok(error),
        Err(error) => Err(Failure::new(format!("{what}: {:?} instead of {kinds:?}: {}", error.kind(), error.chain()))),
    }
}

/// Fails the case unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::Failure::new(format!($($message)+)));
        }
    };
}

/// Fails the case unless both sides are equal; prints what was found and what was expected.
macro_rules! ensure_eq {
    ($found:expr, $expected:expr, $($what:tt)+) => {
        match (&$found, &$expected) {
            (found, expected) => {
                if *found != *expected {
                    return Err($crate::Failure::new(format!("{}: found {found:?}, expected {expected:?}", format_args!($($what)+))));
                }
            }
        }
    };
}

pub(crate) use {ensure, ensure_eq};
