use std::{fmt, str::FromStr};

use sandbar_core::{Error, ErrorKind, Result, SandboxId};
use serde::Serialize;

use crate::Runtime;

/// What has become of a sandbox.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EventKind {
    /// It is there, and its agent answers.
    Created,
    /// It was stopped, or had crashed, and runs again.
    Started,
    /// It is frozen.
    Paused,
    /// It goes on.
    Resumed,
    /// Its processes were ended.
    Stopped,
    /// It has ended without having been asked to. That is found by who looks at it.
    Crashed,
    /// It was saved.
    Checkpointed,
    /// It was put back to a checkpoint.
    Restored,
    /// It is gone.
    Destroyed,
}

impl EventKind {
    const ALL: [Self; 9] = [
        Self::Created,
        Self::Started,
        Self::Paused,
        Self::Resumed,
        Self::Stopped,
        Self::Crashed,
        Self::Checkpointed,
        Self::Restored,
        Self::Destroyed,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Started => "started",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Stopped => "stopped",
            Self::Crashed => "crashed",
            Self::Checkpointed => "checkpointed",
            Self::Restored => "restored",
            Self::Destroyed => "destroyed",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EventKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|kind| kind.name() == text);
        known.ok_or_else(|| Error::new(ErrorKind::Corrupt, "ledger", "unknown kind of an event").with("value", text))
    }
}

/// Something that has become of a sandbox. The names of the fields are those of the JSON.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Its number, which later ones exceed.
    pub id: u64,
    /// Unix milliseconds.
    pub time_ms: u64,
    /// What.
    pub kind: EventKind,
    /// Of which sandbox.
    pub sandbox: SandboxId,
    /// The sandbox's name.
    pub name: Option<String>,
    /// Of a sandbox that was created, the provider; of one that has crashed, why; of one that was saved or restored, the checkpoint.
    pub detail: Option<String>,
}

impl Runtime {
    /// At most `limit` events after the one of this number, the oldest first, whichever process made them happen. The newest ten thousand are kept. With them comes the
    /// number after which to ask the next time: that of the last event that was looked at, which may be of somebody else.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn events_after(&self, after: u64, limit: usize) -> Result<(Vec<Event>, u64)> {
        self.ledger().events_after(after, limit, self.own())
    }

    /// The numbers of the oldest event that is kept and of the newest, of all sandboxes; `None` before the first one.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn kept_events(&self) -> Result<Option<(u64, u64)>> {
        self.ledger().kept_events()
    }
}
