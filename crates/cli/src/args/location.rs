use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

/// One side of `cp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A path of this machine.
    Host(PathBuf),
    /// A path inside a sandbox; relative to its working directory unless it begins with `/`.
    Sandbox {
        /// Its id, name or prefix.
        reference: String,
        /// The path, as it was written: a final `/` or `/.` has a meaning.
        path: String,
    },
    /// `-`: a tar stream on stdin or stdout.
    Stream,
}

impl Location {
    /// As `docker cp` reads it: `REFERENCE:PATH` is inside; what begins with `/` or `.` is a path here, whatever colons it has.
    ///
    /// # Errors
    /// A path inside a sandbox that is not UTF-8.
    pub(crate) fn parse(text: &OsStr) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Stream);
        }
        let bytes = text.as_bytes();
        let reference = bytes.iter().position(|byte| *byte == b':').map(|at| &bytes[..at]);
        match reference {
            Some(reference) if !reference.is_empty() && !reference.starts_with(b".") && !reference.contains(&b'/') => {
                let text = text.to_str().ok_or_else(|| format!("a path inside a sandbox must be UTF-8: {}", text.display()))?;
                let path = &text[reference.len() + 1..];
                let path = if path.is_empty() { "." } else { path };
                Ok(Self::Sandbox { reference: text[..reference.len()].to_owned(), path: path.to_owned() })
            }
            _ if bytes.is_empty() => Err("a path is empty".to_owned()),
            _ => Ok(Self::Host(PathBuf::from(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inside(text: &str) -> Option<(String, String)> {
        match Location::parse(OsStr::new(text)).unwrap() {
            Location::Sandbox { reference, path } => Some((reference, path)),
            _ => None,
        }
    }

    #[test]
    fn a_reference_and_a_colon_are_inside() {
        assert_eq!(inside("web:/srv/a b:c"), Some(("web".into(), "/srv/a b:c".into())));
        assert_eq!(inside("web:src/."), Some(("web".into(), "src/.".into())));
        assert_eq!(inside("web:"), Some(("web".into(), ".".into())));
    }

    #[test]
    fn paths_that_begin_with_a_dot_or_slash_are_here_whatever_colons_they_have() {
        for text in ["/a:b", "./a:b", "../x:y", "plain", "dir/a:b", ".hidden:x"] {
            assert_eq!(inside(text), None, "{text}");
        }
        assert_eq!(Location::parse(OsStr::new("-")), Ok(Location::Stream));
        assert!(Location::parse(OsStr::new("")).is_err());
        assert!(Location::parse(OsStr::from_bytes(b"web:/\xff")).is_err());
        assert_eq!(Location::parse(OsStr::from_bytes(b"/\xff")), Ok(Location::Host(OsStr::from_bytes(b"/\xff").into())));
    }
}
