//! How errors of the tree crate look from here.

use std::io;

use sandbar_core::{Error, ErrorKind};

/// An error of the tree crate as one of ours, told as `message` with the error as its cause.
pub(super) fn tree(operation: &'static str, message: impl Into<String>, error: sandbar_tree::Error) -> Error {
    Error::new(kind(&error), operation, message).with_source(error)
}

fn kind(error: &sandbar_tree::Error) -> ErrorKind {
    use sandbar_tree::ErrorKind as Tree;
    match error.kind() {
        Tree::NotFound => ErrorKind::NotFound,
        Tree::AlreadyExists => ErrorKind::AlreadyExists,
        Tree::PermissionDenied | Tree::ReadOnly => ErrorKind::PermissionDenied,
        Tree::InvalidPath | Tree::NotADirectory | Tree::IsADirectory | Tree::DirectoryNotEmpty | Tree::Symlink => ErrorKind::InvalidInput,
        Tree::Refused | Tree::Malformed => ErrorKind::Corrupt,
        Tree::LimitExceeded | Tree::NoSpace => ErrorKind::ResourceExhausted,
        Tree::Busy | Tree::Changed => ErrorKind::Conflict,
        Tree::Unsupported => ErrorKind::Unsupported,
        // What the archive's own reader says passes through the tree crate untouched.
        _ => match std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind) {
            Some(io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => ErrorKind::Corrupt,
            Some(io::ErrorKind::FileTooLarge | io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => ErrorKind::ResourceExhausted,
            _ => ErrorKind::Internal,
        },
    }
}
