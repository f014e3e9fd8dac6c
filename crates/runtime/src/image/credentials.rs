//! The credentials that `docker login` and `podman login` wrote down.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use base64::Engine as _;
use oci_client::secrets::RegistryAuth;
use serde::Deserialize;

/// The files that are looked into, in this order.
pub(super) fn usual_files() -> Vec<PathBuf> {
    let var = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = var("HOME");
    let below = |folder: &Option<PathBuf>, path: &str| folder.as_ref().map(|folder| folder.join(path));
    [
        var("REGISTRY_AUTH_FILE"),
        below(&var("XDG_RUNTIME_DIR"), "containers/auth.json"),
        below(&home, ".config/containers/auth.json"),
        var("DOCKER_CONFIG").map(|folder| folder.join("config.json")).or_else(|| below(&home, ".docker/config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Login>,
}

#[derive(Deserialize)]
struct Login {
    /// `base64(USER:PASSWORD)`. Absent where a helper program keeps it.
    auth: Option<String>,
}

/// The credentials for a registry, or else none. A file that is missing or damaged holds none; the registry will say
/// whether it needs any.
pub(super) fn find(files: &[PathBuf], registry: &str) -> RegistryAuth {
    files.iter().find_map(|file| in_file(file, registry)).unwrap_or(RegistryAuth::Anonymous)
}

fn in_file(file: &Path, registry: &str) -> Option<RegistryAuth> {
    let text = fs::read(file).ok()?;
    let document: Document = match serde_json::from_slice(&text) {
        Ok(document) => document,
        Err(error) => {
            tracing::warn!(file = %file.display(), "credentials are not used: {error}");
            return None;
        }
    };
    let login = document.auths.iter().find(|(key, _)| host(key) == registry)?.1;
    let decoded = base64::engine::general_purpose::STANDARD.decode(login.auth.as_deref()?).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    // An old docker fills the rest of the block with zeros.
    Some(RegistryAuth::Basic(user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// `HOST[:PORT]` of a key, which some tools write with a scheme and a path.
fn host(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    key.split('/').next().unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_by_its_registry() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        // "ann:pass:word"
        fs::write(&file, r#"{"auths": {"https://r.example/v1/": {"auth": "YW5uOnBhc3M6d29yZA=="}, "h.example": {}}, "credsStore": "x"}"#)
            .unwrap();
        let files = [folder.path().join("missing"), file];
        assert_eq!(find(&files, "r.example"), RegistryAuth::Basic("ann".to_owned(), "pass:word".to_owned()));
        assert_eq!(find(&files, "h.example"), RegistryAuth::Anonymous);
        assert_eq!(find(&files, "other.example"), RegistryAuth::Anonymous);
    }

    #[test]
    fn a_damaged_file_holds_no_login() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        fs::write(&file, "{").unwrap();
        assert_eq!(find(&[file], "r.example"), RegistryAuth::Anonymous);
    }
}
