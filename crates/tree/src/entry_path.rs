//! The name of an archive's entry, judged: nothing but plain names below the root.

use crate::error::{Error, ErrorKind, Result};
use crate::unpack::Limits;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What marks a whiteout's name in an OCI layer (image-spec, `layer.md`).
pub(crate) const WHITEOUT: &[u8] = b".wh.";

/// The marker, in a directory, that hides all that lower layers have there.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";

/// The names from the root to an entry: none is empty, `.`, `..`, or holds `/` or NUL. No names at all is the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryPath {
    names: Vec<OsString>,
}

impl EntryPath {
    /// Judges the bytes of a name, or of a hard link's target. `.` and doubled slashes mean nothing and are dropped.
    pub(crate) fn parse(bytes: &[u8], limits: &Limits) -> Result<Self> {
        let refuse = |kind, reason| Err(Error::new(kind, "unpack", shown(bytes), reason));
        if bytes.len() > limits.path {
            return refuse(ErrorKind::LimitExceeded, format!("path is longer than {} bytes", limits.path).into());
        }
        if bytes.is_empty() {
            return refuse(ErrorKind::Malformed, "entry has no name".into());
        }
        if bytes.contains(&0) {
            return refuse(ErrorKind::Malformed, "name contains a NUL byte".into());
        }
        if bytes.starts_with(b"/") {
            return refuse(ErrorKind::Refused, std::borrow::Cow::Borrowed("name is absolute"));
        }
        let mut names = Vec::new();
        for name in bytes.split(|byte| *byte == b'/') {
            match name {
                b"" | b"." => {}
                b".." => return refuse(ErrorKind::Refused, "name contains `..`".into()),
                _ => {
                    // A whiteout's mark is no part of the name that it hides.
                    if name.strip_prefix(WHITEOUT).unwrap_or(name).len() > limits.name {
                        let reason = format!("a name is longer than {} bytes", limits.name);
                        return refuse(ErrorKind::LimitExceeded, reason.into());
                    }
                    names.push(OsStr::from_bytes(name).to_owned());
                }
            }
        }
        Ok(Self { names })
    }

    /// The names of the directories before the last name, and the last name; `None` for the root.
    pub(crate) fn split(&self) -> Option<(&[OsString], &OsStr)> {
        self.names.split_last().map(|(last, before)| (before, last.as_os_str()))
    }

    /// All names.
    pub(crate) fn names(&self) -> &[OsString] {
        &self.names
    }

    /// The path relative to the root; `.` for the root.
    pub(crate) fn to_path(&self) -> PathBuf {
        if self.names.is_empty() { PathBuf::from(".") } else { self.names.iter().collect() }
    }
}

/// A stranger's name, short enough for a message.
pub(crate) fn shown(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(&bytes[..bytes.len().min(4096)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> std::result::Result<PathBuf, ErrorKind> {
        EntryPath::parse(bytes, &Limits::default()).map(|path| path.to_path()).map_err(|error| error.kind())
    }

    #[test]
    fn plain_names_pass_and_noise_is_dropped() {
        assert_eq!(parse(b"./a//b/./c/"), Ok(PathBuf::from("a/b/c")));
        assert_eq!(parse(b"./"), Ok(PathBuf::from(".")));
        assert_eq!(parse(b"..a/b..\xff"), Ok(PathBuf::from(OsStr::from_bytes(b"..a/b..\xff"))));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for name in [&b"/etc"[..], b"..", b"a/..", b"../a", b"a/../b", b"./../a"] {
            assert_eq!(parse(name), Err(ErrorKind::Refused), "{}", name.escape_ascii());
        }
        assert_eq!(parse(b""), Err(ErrorKind::Malformed));
        assert_eq!(parse(b"a\0b"), Err(ErrorKind::Malformed));
        assert_eq!(parse(&[b'a'; 256]), Err(ErrorKind::LimitExceeded));
        assert_eq!(parse(&b"a/".repeat(3000)), Err(ErrorKind::LimitExceeded));
    }

    #[test]
    fn a_whiteout_may_hide_the_longest_name() {
        let name = [WHITEOUT, &[b'a'; 255]].concat();
        assert!(parse(&name).is_ok());
    }
}
