//! What went wrong, with which operation, on which path.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// The result of everything in this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure an [`Error`] is; callers decide by this and never by the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Nothing has that name.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The kernel said no, or the path leaves the base.
    PermissionDenied,
    /// The path is empty, holds a NUL byte, or names nothing that the operation could act on.
    InvalidPath,
    /// A directory was needed.
    NotADirectory,
    /// Something other than a directory was needed.
    IsADirectory,
    /// The directory still has entries.
    DirectoryNotEmpty,
    /// A symbolic link stood where none is followed, or links form a loop.
    Symlink,
    /// The entry or the operation is refused as unsafe.
    Refused,
    /// A limit given by the caller, or a fixed one, is exceeded.
    LimitExceeded,
    /// The archive is damaged or not an archive.
    Malformed,
    /// Space, inodes or quota are used up.
    NoSpace,
    /// The file system is read-only.
    ReadOnly,
    /// The thing is in use, for example a mount point.
    Busy,
    /// Another process moved the tree while it was being walked.
    Changed,
    /// Source and destination are on different mounts.
    CrossesDevices,
    /// Neither this crate nor the file system can do that.
    Unsupported,
    /// Anything else; see the source.
    Other,
}

/// An operation that failed, the path it failed on (as the caller named it, or relative to the tree), and why.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    path: PathBuf,
    reason: Option<Cow<'static, str>>,
    source: Option<io::Error>,
}

impl Error {
    /// An error of this crate's own making: the reason is its text, there is no source.
    pub(crate) fn new(kind: ErrorKind, operation: &'static str, path: impl AsRef<Path>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, operation, path: path.as_ref().to_owned(), reason: Some(reason.into()), source: None }
    }

    /// An error of the kernel or of the caller's stream.
    pub(crate) fn io(operation: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = kind_of(&source);
        Self { kind, operation, path: path.as_ref().to_owned(), reason: None, source: Some(source) }
    }

    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The verb that failed, in lower case: `open`, `rename`, `unpack` …
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The path it failed on. Empty when the failure belongs to no path, such as a broken stream.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's error number, if the kernel said it.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "cannot {}", self.operation)?;
        if !self.path.as_os_str().is_empty() {
            // Debug form: a stranger's name may hold escape sequences.
            write!(formatter, " {:?}", self.path)?;
        }
        match &self.reason {
            Some(reason) => write!(formatter, ": {reason}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::PermissionDenied | ErrorKind::Refused => io::ErrorKind::PermissionDenied,
            ErrorKind::InvalidPath => io::ErrorKind::InvalidInput,
            ErrorKind::NotADirectory => io::ErrorKind::NotADirectory,
            ErrorKind::IsADirectory => io::ErrorKind::IsADirectory,
            ErrorKind::DirectoryNotEmpty => io::ErrorKind::DirectoryNotEmpty,
            ErrorKind::Malformed => io::ErrorKind::InvalidData,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::Busy => io::ErrorKind::ResourceBusy,
            ErrorKind::CrossesDevices => io::ErrorKind::CrossesDevices,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::Symlink | ErrorKind::LimitExceeded | ErrorKind::Changed | ErrorKind::Other => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

fn kind_of(source: &io::Error) -> ErrorKind {
    match Errno::from_io_error(source) {
        Some(Errno::NOENT) => ErrorKind::NotFound,
        Some(Errno::EXIST) => ErrorKind::AlreadyExists,
        Some(Errno::PERM | Errno::ACCESS) => ErrorKind::PermissionDenied,
        Some(Errno::NAMETOOLONG) => ErrorKind::InvalidPath,
        Some(Errno::NOTDIR) => ErrorKind::NotADirectory,
        Some(Errno::ISDIR) => ErrorKind::IsADirectory,
        Some(Errno::NOTEMPTY) => ErrorKind::DirectoryNotEmpty,
        Some(Errno::LOOP) => ErrorKind::Symlink,
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => ErrorKind::NoSpace,
        Some(Errno::ROFS) => ErrorKind::ReadOnly,
        Some(Errno::BUSY | Errno::TXTBSY) => ErrorKind::Busy,
        Some(Errno::STALE | Errno::AGAIN) => ErrorKind::Changed,
        Some(Errno::XDEV) => ErrorKind::CrossesDevices,
        Some(Errno::OPNOTSUPP | Errno::NOSYS) => ErrorKind::Unsupported,
        _ => ErrorKind::Other,
    }
}

/// Gives a bare kernel error the operation and path it belongs to. (Not for [`Error`], which has both.)
pub(crate) trait Context<T> {
    /// Names the operation and the path.
    fn at(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> Context<T> for std::result::Result<T, Errno> {
    fn at(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::io(operation, path, source))
    }
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, operation: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::io(operation, path, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn the_source_is_in_the_chain_and_not_in_the_text() {
        let error = Error::io("open", "a\u{1b}[31m", Errno::NOENT);
        assert_eq!(error.to_string(), r#"cannot open "a\u{1b}[31m""#);
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.source().is_some());
    }

    #[test]
    fn a_reason_is_the_text() {
        let error = Error::new(ErrorKind::Malformed, "unpack", "", "archive ends early");
        assert_eq!(error.to_string(), "cannot unpack: archive ends early");
        assert!(error.source().is_none());
    }
}
