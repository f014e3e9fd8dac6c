use std::path::PathBuf;

use serde::Deserialize;

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
