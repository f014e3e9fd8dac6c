use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How `runsc` is to be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct GvisorOptions {
    /// The program. `None`: what the environment variable `RUNSC_PATH` names, else `runsc` on `PATH`, else where distributions put it.
    pub runsc: Option<PathBuf>,
    /// How the sentry gets hold of system calls.
    pub platform: Platform,
}

/// How the sentry gets hold of system calls (`runsc --platform`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Platform {
    /// By seccomp's SIGSYS. Works everywhere.
    #[default]
    Systrap,
    /// By hardware virtualization. Only when asked for: on a host whose `/dev/kvm` cannot run a stock guest it hangs, which is told after
    /// a deadline.
    Kvm,
}

impl Platform {
    /// As `runsc` calls it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Systrap => "systrap",
            Self::Kvm => "kvm",
        }
    }
}
