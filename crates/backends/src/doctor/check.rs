use std::fmt;

#[cfg(target_os = "linux")]
use sandbar_core::Probe;
use serde::{Deserialize, Serialize};

/// How it is with something.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All is there.
    Good,
    /// Some of it is there: sandboxes work, with less.
    Limited,
    /// It is not there.
    Missing,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Limited => "limited",
            Self::Missing => "missing",
        })
    }
}

/// One thing that was looked at.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at, in one word.
    pub name: String,
    /// How it is.
    pub health: Health,
    /// One sentence: what was found.
    pub finding: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl Check {
    pub(crate) fn new(name: &str, health: Health, finding: impl Into<String>) -> Self {
        Self { name: name.to_owned(), health, finding: finding.into(), hint: None }
    }

    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    #[cfg(target_os = "linux")]
    pub(super) fn of_probe(name: &str, probe: Probe) -> Self {
        let health = if probe.usable { Health::Good } else { Health::Missing };
        Self { name: name.to_owned(), health, finding: probe.verdict, hint: probe.hint }
    }
}
