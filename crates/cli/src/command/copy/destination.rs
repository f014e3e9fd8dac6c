use sandbar_core::{Error, ErrorKind, Result};

/// What is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Thing {
    /// A file, or a symbolic link that is copied as a link.
    File,
    /// A directory.
    Directory,
    /// What is in a directory: it was written as `DIR/.`.
    Contents,
}

/// What the destination is before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Nothing,
    Directory,
    Other,
}

/// Where the copy goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// To the destination's own path; its parent must exist.
    There,
    /// Into the destination, under the source's name.
    Inside,
    /// The contents into the destination, which is a directory already.
    Into,
}

/// The rules of `docker cp`; `slash` says that the destination was written with a `/` at its end.
///
/// # Errors
/// `NotFound` and `InvalidInput` where a directory was asked for or would be overwritten.
pub(super) fn place(thing: Thing, existing: Existing, slash: bool) -> Result<Place> {
    let refuse = |kind, message: &str| Err(Error::new(kind, "cp", message));
    match (thing, existing) {
        (Thing::File | Thing::Directory, Existing::Directory) => Ok(Place::Inside),
        (Thing::Contents, Existing::Directory) => Ok(Place::Into),
        (Thing::Directory | Thing::Contents, Existing::Nothing) => Ok(Place::There),
        (Thing::File, Existing::Nothing) if slash => refuse(ErrorKind::NotFound, "the destination directory does not exist"),
        (Thing::File, Existing::Other) if slash => refuse(ErrorKind::InvalidInput, "the destination is not a directory"),
        (Thing::File, Existing::Nothing | Existing::Other) => Ok(Place::There),
        (Thing::Directory | Thing::Contents, Existing::Other) => {
            refuse(ErrorKind::InvalidInput, "a directory cannot be copied onto something that is none")
        }
    }
}

/// Whether a path asks for a directory by its end: `/`, `/.` or `/..`.
pub(super) fn asks_for_directory(path: &[u8]) -> bool {
    path.ends_with(b"/") || is_contents(path) || path == b".." || path.ends_with(b"/..")
}

/// Whether a path, by its end, means what is in a directory.
pub(super) fn is_contents(path: &[u8]) -> bool {
    path == b"." || path.ends_with(b"/.")
}

/// The parent and the last name of a path inside a sandbox; no name for `/`, `.` and `..`.
pub(super) fn split(path: &str) -> (&str, Option<&str>) {
    let trimmed = path.trim_end_matches('/');
    let (parent, name) = match trimmed.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((parent, name)) => (parent, name),
        None if path.starts_with('/') => return ("/", None),
        None => (".", trimmed),
    };
    (parent, Some(name).filter(|name| !matches!(*name, "" | "." | "..")))
}

/// `name` in the directory `path`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.ends_with('/') { format!("{path}{name}") } else { format!("{path}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_those_of_docker_cp() {
        use Existing::{Directory as Dir, Nothing, Other};
        let there = |thing, existing, slash| place(thing, existing, slash).ok();
        assert_eq!(there(Thing::File, Nothing, false), Some(Place::There));
        assert_eq!(there(Thing::File, Nothing, true), None);
        assert_eq!(there(Thing::File, Other, false), Some(Place::There));
        assert_eq!(there(Thing::File, Other, true), None);
        assert_eq!(there(Thing::File, Dir, false), Some(Place::Inside));
        assert_eq!(there(Thing::Directory, Nothing, true), Some(Place::There));
        assert_eq!(there(Thing::Directory, Other, false), None);
        assert_eq!(there(Thing::Directory, Dir, false), Some(Place::Inside));
        assert_eq!(there(Thing::Contents, Nothing, false), Some(Place::There));
        assert_eq!(there(Thing::Contents, Dir, false), Some(Place::Into));
        assert_eq!(there(Thing::Contents, Other, false), None);
    }

    #[test]
    fn paths_split_into_parent_and_name() {
        for (path, parent, name) in [
            ("/a/b", "/a", Some("b")),
            ("/a", "/", Some("a")),
            ("/a/", "/", Some("a")),
            ("a", ".", Some("a")),
            ("a b/c:d", "a b", Some("c:d")),
            ("/", "/", None),
            (".", ".", None),
            ("x/..", "x", None),
        ] {
            assert_eq!(split(path), (parent, name), "{path}");
        }
    }

    #[test]
    fn the_end_of_a_path_has_a_meaning() {
        assert!(is_contents(b".") && is_contents(b"a/.") && !is_contents(b"a.") && !is_contents(b"a/.."));
        assert!(asks_for_directory(b"a/") && asks_for_directory(b"..") && !asks_for_directory(b"a"));
    }
}
