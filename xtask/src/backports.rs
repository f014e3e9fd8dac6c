//! Packages of the distribution's backports, from wherever this machine gets its packages: no registry is named here.

use std::fs;

use xshell::{Shell, cmd};

use crate::outcome::Failure;

// The one file of the runtime that this needs, without all that the runtime needs.
#[path = "../../crates/runtime/src/setup/source.rs"]
mod source;
use source::PackageSource;

/// Packages that the distribution's own suite has too old, or not at all.
pub const PACKAGES: [(&str, &str); 1] = [("runsc", "gVisor: the suite's own has no systrap")];

/// Installs packages from the backports of this machine's suite, without adding that suite to the machine's sources.
pub fn install(shell: &Shell, packages: &[&str]) -> Result<(), Failure> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or_default().trim_matches('"').to_owned();
    let source = PackageSource::of_suite(&suite)
        .ok_or_else(|| Failure::new(format!("no apt source for the suite {suite:?} here; install by hand: {}", packages.join(" "))))?;
    let folder = shell.create_temp_dir()?;
    let (list, lists) = (folder.path().join("backports.sources"), folder.path().join("lists"));
    fs::create_dir_all(lists.join("partial"))?;
    fs::write(&list, source.file_for(&format!("{suite}-backports")))?;
    let options = PackageSource::options(&list, &lists);
    // The user that apt becomes to download must be able to pass through.
    cmd!(shell, "chmod -R a+rX").arg(folder.path()).run()?;
    let options = &options;
    cmd!(shell, "apt-get update -q {options...}").ignore_stdout().run()?;
    cmd!(shell, "apt-get install -yq --no-install-recommends {options...} {packages...}")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .ignore_stdout()
        .run()?;
    Ok(())
}
