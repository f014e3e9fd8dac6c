use std::io;

use rustix::io::Errno;
use sandbar_protocol::{Failure, Reply, reply};

/// The error kinds of the host's contract that the agent uses; the host knows them by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    InvalidInput,
    NotFound,
    AlreadyExists,
    Conflict,
    PermissionDenied,
    Unsupported,
    Unavailable,
    TimedOut,
    ResourceExhausted,
    Corrupt,
    CommandNotExecutable,
    CommandNotFound,
    Internal,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::PermissionDenied => "permission_denied",
            Self::Unsupported => "unsupported",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Corrupt => "corrupt",
            Self::CommandNotExecutable => "command_not_executable",
            Self::CommandNotFound => "command_not_found",
            Self::Internal => "internal",
        }
    }

    /// What a system error means to a caller when nothing more is known of it.
    pub(crate) fn of(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::NotFound,
            Errno::EXIST => Self::AlreadyExists,
            Errno::PERM | Errno::ACCESS | Errno::ROFS => Self::PermissionDenied,
            Errno::INVAL
            | Errno::NAMETOOLONG
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::NOTEMPTY
            | Errno::LOOP
            | Errno::XDEV
            | Errno::TOOBIG => Self::InvalidInput,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG | Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE => {
                Self::ResourceExhausted
            }
            Errno::BUSY | Errno::TXTBSY => Self::Conflict,
            Errno::NOSYS | Errno::OPNOTSUPP => Self::Unsupported,
            Errno::CONNREFUSED | Errno::CONNRESET | Errno::NOTCONN | Errno::PIPE => Self::Unavailable,
            Errno::TIMEDOUT => Self::TimedOut,
            _ => Self::Internal,
        }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// A refusal of the agent's own.
pub(crate) fn failure(kind: Kind, message: impl Into<String>) -> Failure {
    Failure { kind: kind.name().to_owned(), message: message.into(), errno: None }
}

/// A refusal of the system's; its text is added by the host, which knows the number.
pub(crate) fn system(message: impl Into<String>, errno: Errno) -> Failure {
    system_as(Kind::of(errno), message, errno)
}

/// As [`system`], where the operation knows better what the number means.
pub(crate) fn system_as(kind: Kind, message: impl Into<String>, errno: Errno) -> Failure {
    let message = format!("{}: {}", message.into(), io::Error::from(errno));
    Failure { kind: kind.name().to_owned(), message, errno: Some(errno.raw_os_error()) }
}

/// As [`system`], from the standard library's error.
pub(crate) fn io(message: impl Into<String>, error: &io::Error) -> Failure {
    match Errno::from_io_error(error) {
        Some(errno) => system(message, errno),
        None => failure(Kind::Internal, format!("{}: {error}", message.into())),
    }
}

/// Bytes from outside for people: as text, control characters escaped, bounded.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(512)];
    format!("{:?}", String::from_utf8_lossy(cut))
}

/// The reply that carries a refusal.
pub(crate) fn refusal(failure: Failure) -> Reply {
    Reply { answer: Some(reply::Answer::Failure(failure)) }
}
