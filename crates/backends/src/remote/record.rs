use sandbar_core::{Error, ErrorKind, LimitReport, Renewal, Result, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::OPERATION;

/// The form of the record.
const FORM: u32 = 1;

/// What the ledger keeps of a sandbox on another host. Its id is the same there, and its host is in the provider's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    elsewhere: u32,
    /// As last known, for when the host cannot be reached.
    pub(super) state: State,
    pub(super) limits: Vec<LimitReport>,
    pub(super) renewal: Option<Renewal>,
}

impl Record {
    pub(super) fn new(seen: Seen) -> Self {
        Self { elsewhere: FORM, state: State::Running, limits: seen.limits, renewal: seen.renewal }
    }

    pub(super) fn read(value: &Value) -> Result<Self> {
        let bad = || Error::new(ErrorKind::Corrupt, OPERATION, "the record is not of a sandbox on another host");
        let record = Self::deserialize(value).map_err(|error| bad().with_source(error))?;
        if record.elsewhere == FORM { Ok(record) } else { Err(bad().with("form", record.elsewhere)) }
    }

    pub(super) fn to_value(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// What of an inspection is of use here.
#[derive(Debug, Deserialize)]
pub(super) struct Seen {
    pub(super) state: State,
    pub(super) reason: Option<String>,
    /// Whether the other side may say otherwise the next time.
    #[serde(default)]
    pub(super) in_doubt: bool,
    #[serde(default)]
    limits: Vec<LimitReport>,
    #[serde(default)]
    renewal: Option<Renewal>,
}
