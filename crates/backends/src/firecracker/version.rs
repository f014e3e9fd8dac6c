use std::{fmt, path::Path, process::Command, time::Duration};

use sandbar_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::host::asked::ask;

/// How long saying its version may take.
const QUICK: Duration = Duration::from_secs(10);

/// Which Firecracker: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Version(pub(super) u32, pub(super) u32, pub(super) u32);

impl Version {
    /// The oldest whose machines can be made and saved as this backend does.
    pub(super) const OLDEST: Self = Self(1, 12, 0);

    /// Asks a program. Blocks for some milliseconds.
    ///
    /// # Errors
    /// `Unavailable` when it does not say, or is too old.
    pub(super) fn of(program: &Path) -> Result<Self> {
        let version = Self::parse(&said_version("firecracker", program)?)
            .ok_or_else(|| Error::new(ErrorKind::Unavailable, "probe", "firecracker does not tell its version"))?;
        if version < Self::OLDEST {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "probe",
                format!("Firecracker {version} is too old: {} is needed", Self::OLDEST),
            ));
        }
        Ok(version)
    }

    /// `Firecracker v1.12.1`, and lines that do not matter.
    fn parse(text: &str) -> Option<Self> {
        let word = text.lines().find_map(|line| line.strip_prefix("Firecracker v"))?;
        let mut numbers = word.split(|character: char| !character.is_ascii_digit()).map(str::parse);
        Some(Self(numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

/// Tries the jailer. Blocks for some milliseconds.
///
/// # Errors
/// `Unavailable` when it does not run here.
pub(super) fn try_jailer(program: &Path) -> Result<()> {
    let said = said_version("jailer", program)?;
    if said.contains("Jailer v") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, "probe", "the jailer does not tell its version").with("program", program.display()))
}

fn said_version(name: &'static str, program: &Path) -> Result<String> {
    let mut command = Command::new(program);
    command.arg("--version").env_clear();
    Ok(ask(name, command, "", QUICK)?.text)
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let said = "Firecracker v1.12.1\n\n2026-11-25T16:03:58.047900036 [anonymous-instance:main] Firecracker exiting successfully. exit_code=0\n";
        assert_eq!(Version::parse(said), Some(Version(1, 12, 1)));
        assert_eq!(Version::parse("Firecracker v1.17.0-dev\n"), Some(Version(1, 17, 0)));
        assert_eq!(Version::parse("something else"), None);
        assert!(Version(1, 9, 9) < Version::OLDEST && Version(1, 16, 1) > Version::OLDEST);
    }
}
