//! How providers are to be used: what a configuration says of them, wherever it is read.

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
    pub const fn name(self) -> &'static str {
        match self {
            Self::Systrap => "systrap",
            Self::Kvm => "kvm",
        }
    }
}

/// How Firecracker is to be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct FirecrackerOptions {
    /// The program. `None`: what the environment variable `FIRECRACKER_PATH` names, else `firecracker` on `PATH`, else where programs usually are.
    pub firecracker: Option<PathBuf>,
    /// The jailer. `None`: what `JAILER_PATH` names, else `jailer` beside the program, else on `PATH`.
    pub jailer: Option<PathBuf>,
    /// Whether machines are made in jails. `None`: as root, where there is a jailer. `true` refuses to make one without.
    pub jail: Option<bool>,
}

/// How QEMU is to be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct QemuOptions {
    /// What runs the processors. `None`: KVM where a guest of our own runs in it, else emulation.
    pub accelerator: Option<Accelerator>,
}

/// What runs a machine's processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accelerator {
    /// The host's own, by KVM.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

impl Accelerator {
    /// As QEMU calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}
