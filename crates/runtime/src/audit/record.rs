use std::fmt;

use sandbar_core::SandboxId;
use serde::{Deserialize, Serialize};

/// Who did something.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Actor {
    /// A user of this host, by a command or a program of theirs.
    User {
        /// The user's id.
        uid: u32,
    },
    /// Whoever has the token of the state folder, by a server.
    Token,
    /// Whoever has a key, by a server.
    Key {
        /// The key's name.
        name: String,
    },
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { uid } => write!(f, "uid {uid}"),
            Self::Token => f.write_str("token"),
            Self::Key { name } => write!(f, "key {name}"),
        }
    }
}

/// What somebody did. The names of the fields are those of the JSON.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// When it began, Unix milliseconds.
    pub time_ms: u64,
    /// How long it took, microseconds; of a command, until it had started; of its end, since whoever was told of it had begun to wait.
    pub duration_micros: u64,
    /// Who.
    pub actor: Actor,
    /// What: `create`, `exec`, `write`, `destroy` … `exit` is the end of a command, told by each client that waited for it.
    pub verb: String,
    /// To which sandbox, where it was one.
    pub sandbox: Option<SandboxId>,
    /// The sandbox's name.
    pub name: Option<String>,
    /// What of it, or what else: a program's name, a path, a port, a checkpoint.
    pub target: Option<String>,
    /// The process inside, where a command was started or has ended.
    pub pid: Option<u32>,
    /// The status with which a command has ended, as a shell would tell it: the code; 128 and the signal's number; 124 after a timeout.
    pub exit_code: Option<u8>,
    /// `ok`, the kind of the error, or `abandoned` where somebody went away before it had an outcome.
    pub outcome: String,
}
