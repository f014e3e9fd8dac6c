use serde::Deserialize;

use super::Accelerator;

/// How QEMU is to be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct QemuOptions {
    /// What runs the processors. `None`: KVM where a guest of our own runs in it, else emulation.
    pub accelerator: Option<Accelerator>,
}
