use std::{error, fmt};

/// A result whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as a caller can act on it.
///
/// One table maps each kind to an HTTP status and to the exit status of the command line; see
/// [`ErrorKind::http_status`] and [`ErrorKind::exit_code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request makes no sense whatever the state of things: a bad name, a bad number, a bad path.
    InvalidInput,
    /// The named thing does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The thing is in a state that does not allow this now.
    Conflict,
    /// The caller, or the sandboxed user, may not do this.
    PermissionDenied,
    /// The provider does not claim this feature.
    Unsupported,
    /// Something this needs is missing or does not answer: an engine, a kernel feature, the agent.
    Unavailable,
    /// A deadline passed.
    TimedOut,
    /// A limit was reached: memory, processes, disk, descriptors.
    ResourceExhausted,
    /// Data is not what its digest, format or version says.
    Corrupt,
    /// The command to execute exists but cannot be executed.
    CommandNotExecutable,
    /// The command to execute does not exist.
    CommandNotFound,
    /// A defect in sandbar, or a failure that no other kind describes.
    Internal,
}

impl ErrorKind {
    /// Every kind, in the order of the table in `docs/architecture.md`.
    pub const ALL: [Self; 13] = [
        Self::InvalidInput,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::PermissionDenied,
        Self::Unsupported,
        Self::Unavailable,
        Self::TimedOut,
        Self::ResourceExhausted,
        Self::Corrupt,
        Self::CommandNotExecutable,
        Self::CommandNotFound,
        Self::Internal,
    ];

    /// The kind as it is written in JSON and problem documents.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status that the server answers with.
    pub const fn http_status(self) -> u16 {
        self.row().1
    }

    /// The exit status of the command line when sandbar itself failed this way.
    ///
    /// As `docker run`, `env` and `timeout` do: 125 the tool failed, 126 not executable, 127 not found, 124 timed out.
    pub const fn exit_code(self) -> u8 {
        self.row().2
    }

    const fn row(self) -> (&'static str, u16, u8) {
        match self {
            Self::InvalidInput => ("invalid_input", 400, 125),
            Self::NotFound => ("not_found", 404, 125),
            Self::AlreadyExists => ("already_exists", 409, 125),
            Self::Conflict => ("conflict", 409, 125),
            Self::PermissionDenied => ("permission_denied", 403, 125),
            Self::Unsupported => ("unsupported", 422, 125),
            Self::Unavailable => ("unavailable", 503, 125),
            Self::TimedOut => ("timed_out", 504, 124),
            Self::ResourceExhausted => ("resource_exhausted", 507, 125),
            Self::Corrupt => ("corrupt", 422, 125),
            Self::CommandNotExecutable => ("command_not_executable", 422, 126),
            Self::CommandNotFound => ("command_not_found", 422, 127),
            Self::Internal => ("internal", 500, 125),
        }
    }

    /// The kind with this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The one error type of sandbar: a kind, the operation that failed, the values that matter, and the cause.
///
/// `Display` prints `operation: message` without the cause; the edge (command line, server) prints the chain once. Wording is
/// lower case, without a full stop, values included.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    message: String,
    context: Vec<(&'static str, String)>,
    hint: Option<String>,
    source: Option<Box<dyn error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `kind` in `operation` (a short verb such as `exec` or `container start`), with a message.
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, operation, message: message.into(), context: Vec::new(), hint: None, source: None }))
    }

    /// An error from the operating system: the kind is derived from the `io::Error`.
    pub fn io(operation: &'static str, message: impl Into<String>, source: std::io::Error) -> Self {
        Self::new(io_kind(&source), operation, message).with_source(source)
    }

    /// Adds a named value, printed as `name=value`.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Adds what the user can do about it; printed at the edge only.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error, as seen from an outer operation.
    #[must_use]
    pub fn during(mut self, operation: &'static str) -> Self {
        self.0.operation = operation;
        self
    }

    /// What a caller can act on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that failed.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The message, without operation, values and cause.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The named values.
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// What the user can do about it.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// `operation: message (values): cause: cause …` on one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.operation, self.0.message)?;
        for (index, (name, value)) in self.0.context.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { " (" } else { ", " })?;
        }
        if self.0.context.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

fn io_kind(error: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        Io::AlreadyExists => ErrorKind::AlreadyExists,
        Io::InvalidInput | Io::InvalidFilename | Io::NotADirectory | Io::IsADirectory | Io::DirectoryNotEmpty => ErrorKind::InvalidInput,
        Io::TimedOut => ErrorKind::TimedOut,
        Io::StorageFull | Io::QuotaExceeded | Io::OutOfMemory | Io::FileTooLarge => ErrorKind::ResourceExhausted,
        Io::ConnectionRefused | Io::ConnectionReset | Io::ConnectionAborted | Io::NotConnected | Io::BrokenPipe | Io::UnexpectedEof => {
            ErrorKind::Unavailable
        }
        Io::InvalidData => ErrorKind::Corrupt,
        Io::ResourceBusy => ErrorKind::Conflict,
        _ => ErrorKind::Internal,
    }
}

/// Turns an `io::Result` (or any other foreign result) into ours, with the operation and a message.
pub trait Context<T> {
    /// Names the operation and what was being done.
    ///
    /// # Errors
    /// The mapped error.
    fn context(self, operation: &'static str, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, operation: &'static str, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::io(operation, message(), source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_distinct_name_for_each_kind() {
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_name(kind.name()), Some(kind));
            assert!((400..600).contains(&kind.http_status()));
        }
    }

    #[test]
    fn exit_codes_are_those_of_env_and_timeout() {
        assert_eq!(ErrorKind::CommandNotFound.exit_code(), 127);
        assert_eq!(ErrorKind::CommandNotExecutable.exit_code(), 126);
        assert_eq!(ErrorKind::TimedOut.exit_code(), 124);
        assert!(ErrorKind::ALL.into_iter().filter(|kind| kind.exit_code() == 125).count() == 10);
    }

    #[test]
    fn the_chain_prints_each_cause_once() {
        let error = Error::io("read", "cannot read the file", std::io::Error::other("boom")).with("path", "/x");
        assert_eq!(error.to_string(), "read: cannot read the file (path=/x)");
        assert_eq!(error.chain(), "read: cannot read the file (path=/x): boom");
    }
}
