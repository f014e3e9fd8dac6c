use std::fmt;

use sandbar_core::{Error, ErrorKind, Result};

use super::engine::how_to_get;
use crate::Distribution;

/// Which `runsc`, as it says itself: gVisor's releases are named by their date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version(String);

impl Version {
    /// The oldest that everything which this wall claims is tested with. What is older lacks some of it: systrap came in April 2023
    /// (<https://gvisor.dev/blog/2023/04/28/systrap-release/>), checkpoints without compression in the summer after that
    /// (<https://github.com/google/gvisor/pull/9146>).
    const OLDEST: u32 = 20_240_729;

    /// Reads what `runsc --version` prints.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let version = text.lines().find_map(|line| line.strip_prefix("runsc version "))?.trim();
        (!version.is_empty() && version.len() <= 100).then(|| Self(version.to_owned()))
    }

    /// Refuses what is too old. A build of somebody's own that tells no date is taken: a sandbox of the probe's shows whether it works.
    ///
    /// # Errors
    /// `Unavailable`, with both versions.
    pub(super) fn require(&self) -> Result<()> {
        match self.date() {
            Some(date) if date < Self::OLDEST => {
                Err(Error::new(ErrorKind::Unavailable, "runsc", format!("runsc {self} is too old: {} is needed", Self::OLDEST))
                    .with_hint(how_to_get(&Distribution::here())))
            }
            _ => Ok(()),
        }
    }

    /// Of `0.0~20240729.0`, `release-20250407.0`, `release-20250407.0-12-g0123abc`: the only number of eight digits that is a year's day.
    fn date(&self) -> Option<u32> {
        let numbers = self.0.split(|character: char| !character.is_ascii_alphanumeric());
        numbers.filter(|word| word.len() == 8 && word.starts_with("20")).find_map(|word| word.parse().ok())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_get_one_is_told_by_the_distribution() {
        let told = |release: &str| how_to_get(&Distribution::parse(release));
        for release in ["ID=debian\nVERSION_ID=12\n", "ID=debian\nVERSION_ID=\"13\"\n", "ID=debian\n"] {
            assert!(told(release).starts_with("sandbar setup gvisor"), "{release}");
        }
        for release in ["ID=debian\nVERSION_ID=11\n", "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=24.04\n", "ID=fedora\n", ""] {
            assert!(told(release).starts_with("get gVisor's own (https://") && told(release).contains("RUNSC_PATH"), "{release}");
        }
    }

    fn version(of: &str) -> Version {
        Version::parse(&format!("runsc version {of}\nspec: 1.0.2-dev\n")).unwrap()
    }

    #[test]
    fn versions_are_read_by_their_date() {
        assert_eq!(version("0.0~20240729.0").date(), Some(20_240_729));
        assert_eq!(version("release-20250407.0").date(), Some(20_250_407));
        assert_eq!(version("release-20250407.0-12-g20abcdef").date(), Some(20_250_407));
        assert_eq!(version("VERSION_MISSING").date(), None);
        assert_eq!(Version::parse("something else"), None);
        assert_eq!(Version::parse("runsc version \n"), None);
    }

    #[test]
    fn what_is_too_old_is_refused_with_what_is_needed() {
        for old in ["0.0~20221219.0", "release-20240722.0"] {
            let error = version(old).require().unwrap_err();
            assert!(error.message().contains(old) && error.message().contains("20240729"), "{error}");
            assert!(error.hint().is_some(), "{error}");
        }
        for new in ["0.0~20240729.0", "release-20250407.0", "VERSION_MISSING"] {
            version(new).require().unwrap();
        }
    }
}
