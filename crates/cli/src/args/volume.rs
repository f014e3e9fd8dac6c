use std::path::PathBuf;

use sandbar_core::Volume;

/// `SOURCE:TARGET[:ro|:rw]`. A relative source is taken from the current folder.
///
/// The target begins with `/`, so the last `:/` divides: a source may have colons and spaces in its name, a target may not have colons.
pub(crate) fn volume(text: &str) -> Result<Volume, String> {
    let (paths, read_only) = match (text.strip_suffix(":ro"), text.strip_suffix(":rw")) {
        (Some(paths), _) => (paths, true),
        (_, Some(paths)) => (paths, false),
        _ => (text, false),
    };
    let at = paths.rfind(":/").filter(|at| *at > 0);
    let (source, target) = at
        .map(|at| (&paths[..at], &paths[at + 1..]))
        .ok_or_else(|| format!("expected SOURCE:TARGET or SOURCE:TARGET:ro, with a TARGET that begins with /, not {text:?}"))?;
    if let Some((_, option)) = target.split_once(':') {
        return Err(format!("unknown option {option:?} of a volume: there are ro and rw"));
    }
    let source = std::path::absolute(source).map_err(|error| format!("cannot make {source:?} absolute: {error}"))?;
    Ok(Volume { source, target: PathBuf::from(target), read_only })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parts(text: &str) -> (String, String, bool) {
        let volume = volume(text).unwrap();
        (volume.source.display().to_string(), volume.target.display().to_string(), volume.read_only)
    }

    #[test]
    fn volumes_are_writable_unless_said_otherwise() {
        assert_eq!(parts("/a:/b"), ("/a".into(), "/b".into(), false));
        assert_eq!(parts("/a:/b:rw"), ("/a".into(), "/b".into(), false));
        assert_eq!(parts("/a:/b:ro"), ("/a".into(), "/b".into(), true));
    }

    #[test]
    fn sources_may_have_spaces_and_colons() {
        assert_eq!(parts("/my data/a:b:/x y"), ("/my data/a:b".into(), "/x y".into(), false));
        assert_eq!(parts("/a:/b:/c:ro"), ("/a:/b".into(), "/c".into(), true));
    }

    #[test]
    fn a_relative_source_is_taken_from_here() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(volume("data:/d").unwrap().source, here.join("data"));
        assert_eq!(volume(".:/d").unwrap().source, here);
        assert!(volume("./x:/d").unwrap().source.starts_with(Path::new("/")));
    }

    #[test]
    fn unknown_options_and_missing_halves_are_refused() {
        for bad in ["", "/a", "a:b", ":/b", "/a:", "/a:/b:z", "/a:/b:ro,z", "/a:b:ro"] {
            assert!(volume(bad).is_err(), "{bad}");
        }
    }
}
