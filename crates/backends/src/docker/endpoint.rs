//! Where the engine is.

use std::{
    env, fmt, fs,
    path::{Path, PathBuf},
};

use sandbar_core::{Error, ErrorKind, Result};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::error::OPERATION;
use crate::{Distribution, find_program};

/// What may be done when an engine is not found though one is there.
const ELSEWHERE: &str = "start it, or say where it is: DOCKER_HOST, a docker context, or docker-host in sandbar.toml";

/// How an engine is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Endpoint {
    /// A unix socket of this host.
    Unix(PathBuf),
    /// `HOST:PORT`, in the clear.
    Tcp(String),
}

impl fmt::Display for Endpoint {
    /// In the form of `DOCKER_HOST`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Endpoint {
    /// Reads the form of `DOCKER_HOST`.
    ///
    /// # Errors
    /// `Unsupported` for a transport that this provider does not speak.
    pub(super) fn parse(text: &str) -> Result<Self> {
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(PathBuf::from(path))),
            Some(("tcp" | "http", address)) if !address.is_empty() => Ok(Self::Tcp(address.trim_end_matches('/').to_owned())),
            _ => Err(Error::new(ErrorKind::Unsupported, OPERATION, "the engine's address is of a kind that sandbar does not speak")
                .with("address", format!("{text:?}"))
                .with_hint("unix:///PATH or tcp://HOST:PORT; an engine behind ssh:// is reached by running sandbar there")),
        }
    }
}

/// Finds the engine: what was configured, `DOCKER_HOST`, the docker context in use, else a socket at one of the usual places.
///
/// # Errors
/// `Unavailable` when there is none, `Unsupported` for a transport that this provider does not speak.
pub(super) fn find(configured: Option<&str>) -> Result<Endpoint> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(host) = configured {
        return Endpoint::parse(host);
    }
    if let Some(host) = variable("DOCKER_HOST") {
        return Endpoint::parse(&host);
    }
    let folder = variable("DOCKER_CONFIG").map(PathBuf::from).or_else(|| Some(PathBuf::from(variable("HOME")?).join(".docker")));
    if let Some(host) = folder.as_deref().map(|folder| of_context(folder, variable("DOCKER_CONTEXT"))).transpose()?.flatten() {
        return Endpoint::parse(&host);
    }
    let places = usual_places(variable("XDG_RUNTIME_DIR").map(PathBuf::from).as_deref());
    let found = places.iter().find(|path| path.exists()).cloned();
    found.map(Endpoint::Unix).ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|path| path.display().to_string()).collect();
        Error::new(ErrorKind::Unavailable, OPERATION, "there is no container engine here").with("looked at", places.join(", ")).with_hint(
            match find_program("dockerd").or_else(|| find_program("podman")) {
                Some(_) => ELSEWHERE.to_owned(),
                None => format!("{ELSEWHERE}; where there is none: {}", Distribution::here().how_to_set_up("docker", &["dockerd"])),
            },
        )
    })
}

/// Sockets of Docker and of Podman, of root and of this user.
fn usual_places(runtime_folder: Option<&Path>) -> Vec<PathBuf> {
    let own = |name: &str| runtime_folder.map(|folder| folder.join(name));
    let places = [
        Some(PathBuf::from("/var/run/docker.sock")),
        own("docker.sock"),
        Some(PathBuf::from("/run/podman/podman.sock")),
        own("podman/podman.sock"),
    ];
    places.into_iter().flatten().collect()
}

/// The address of the context in use; `None` for the context `default`, which is the usual places.
fn of_context(folder: &Path, named: Option<String>) -> Result<Option<String>> {
    let current = || {
        let config: Value = serde_json::from_slice(&fs::read(folder.join("config.json")).ok()?).ok()?;
        Some(config.get("currentContext")?.as_str()?.to_owned())
    };
    let Some(name) = named.or_else(current).filter(|name| name != "default" && !name.is_empty()) else { return Ok(None) };
    // The docker command keeps a context in a folder that is named by the digest of its name.
    let digest = hex::encode(Sha256::digest(name.as_bytes()));
    let path = folder.join("contexts/meta").join(digest).join("meta.json");
    let host = || {
        let meta: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        Some(meta.pointer("/Endpoints/docker/Host")?.as_str()?.to_owned())
    };
    host().map(Some).ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, OPERATION, "the docker context in use cannot be read")
            .with("context", name)
            .with("file", path.display())
            .with_hint("docker context use default")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_docker_command_writes_them() {
        assert_eq!(Endpoint::parse("unix:///run/x.sock").unwrap(), Endpoint::Unix("/run/x.sock".into()));
        assert_eq!(Endpoint::parse("tcp://127.0.0.1:2375").unwrap(), Endpoint::Tcp("127.0.0.1:2375".to_owned()));
        assert_eq!(Endpoint::parse("unix:///run/x.sock").unwrap().to_string(), "unix:///run/x.sock");
        for other in ["ssh://box", "npipe:////./pipe/x", "/run/x.sock", "unix://", "tcp://"] {
            assert_eq!(Endpoint::parse(other).unwrap_err().kind(), ErrorKind::Unsupported, "{other}");
        }
    }

    #[test]
    fn the_context_in_use_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(of_context(folder.path(), None).unwrap(), None);
        fs::write(folder.path().join("config.json"), r#"{"currentContext": "box"}"#).unwrap();
        assert_eq!(of_context(folder.path(), None).unwrap_err().kind(), ErrorKind::Unavailable);
        let digest = hex::encode(Sha256::digest(b"box"));
        let meta = folder.path().join("contexts/meta").join(digest);
        fs::create_dir_all(&meta).unwrap();
        fs::write(meta.join("meta.json"), r#"{"Name": "box", "Endpoints": {"docker": {"Host": "unix:///run/box.sock"}}}"#).unwrap();
        assert_eq!(of_context(folder.path(), None).unwrap().as_deref(), Some("unix:///run/box.sock"));
        assert_eq!(of_context(folder.path(), Some("default".to_owned())).unwrap(), None);
    }
}
