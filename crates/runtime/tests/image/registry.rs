//! Real registries on loopback: `docker-registry`, filled by `skopeo`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use sandbar_runtime::image::Digest;

use crate::build::{Image, Layout};
pub(crate) use crate::served::Registry;

/// The password of user `ann` of the closed registry, and what `htpasswd -B` makes of it.
pub(crate) const PASSWORD: &str = "correct horse";
const HTPASSWD: &str = "ann:$2y$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e\n";

/// One that serves everybody, and one that asks for a login.
pub(crate) struct Registries {
    pub(crate) open: Registry,
    pub(crate) closed: Registry,
}

impl Registries {
    /// Starts both, from the main thread, as they end with the thread that started them.
    pub(crate) fn start() -> Result<Arc<Self>, String> {
        for program in ["docker-registry", "skopeo", "setpriv"] {
            if Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
                return Err(format!("`{program}` is not installed (apt-get install docker-registry skopeo)"));
            }
        }
        Ok(Arc::new(Self { open: Registry::start(None)?, closed: Registry::start(Some(HTPASSWD))? }))
    }
}

impl Registry {
    /// Pushes an image under `repository:t`.
    pub(crate) fn push(&self, repository: &str, image: &Image) {
        let folder = tempfile::tempdir().unwrap();
        self.push_layout(&Layout::of(folder.path(), "t", image), repository);
    }

    /// Pushes what a layout has under `t`, all platforms of it.
    pub(crate) fn push_layout(&self, layout: &Layout, repository: &str) {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"]);
        // Nobody asks for them where everybody is served.
        command.args(["--dest-creds", &format!("ann:{PASSWORD}")]);
        command.arg(format!("oci:{}:t", layout.path.display())).arg(format!("docker://{}/{repository}:t", self.address));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The file in which the registry keeps a blob.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.folder.path().join("storage/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(&hex).join("data")
    }
}

/// Flips one bit in the middle of a file.
pub(crate) fn flip(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}
