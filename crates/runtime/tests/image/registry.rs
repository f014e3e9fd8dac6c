//! Real registries on loopback: `docker-registry`, filled by `skopeo`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
};

use sandbar_runtime::image::Digest;
use tempfile::TempDir;

use crate::build::{Image, Layout};

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
        Ok(Arc::new(Self { open: Registry::start(false)?, closed: Registry::start(true)? }))
    }
}

/// A running registry.
pub(crate) struct Registry {
    folder: TempDir,
    pub(crate) address: SocketAddr,
    process: Child,
    credentials: bool,
}

impl Registry {
    fn start(closed: bool) -> Result<Self, String> {
        // Between choosing a port and taking it somebody else may take it.
        (0..10).find_map(|_| Self::try_start(closed)).ok_or_else(|| "docker-registry does not start".to_owned())
    }

    fn try_start(closed: bool) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let storage = folder.path().join("storage");
        let htpasswd = folder.path().join("htpasswd");
        fs::write(&htpasswd, HTPASSWD).unwrap();
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", htpasswd.display());
        let configuration = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{}",
            storage.display(),
            if closed { &auth } else { "" }
        );
        let file = folder.path().join("configuration.yml");
        fs::write(&file, configuration).unwrap();
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let listening = lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening on"));
        // It must be able to go on writing.
        std::thread::spawn(move || lines.for_each(drop));
        if !listening {
            let _ = process.wait();
            return None;
        }
        Some(Self { folder, address, process, credentials: closed })
    }

    /// Pushes an image under `repository:t`.
    pub(crate) fn push(&self, repository: &str, image: &Image) {
        let folder = tempfile::tempdir().unwrap();
        self.push_layout(&Layout::of(folder.path(), "t", image), repository);
    }

    /// Pushes what a layout has under `t`, all platforms of it.
    pub(crate) fn push_layout(&self, layout: &Layout, repository: &str) {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--all", "--preserve-digests", "--dest-tls-verify=false"]);
        if self.credentials {
            command.args(["--dest-creds", &format!("ann:{PASSWORD}")]);
        }
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

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Flips one bit in the middle of a file.
pub(crate) fn flip(path: &Path) {
    let mut content = fs::read(path).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(path, content).unwrap();
}
