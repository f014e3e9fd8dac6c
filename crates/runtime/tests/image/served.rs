//! A real registry on loopback: `docker-registry`, as long as the thread lives that started it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// A running registry.
pub(crate) struct Registry {
    pub(crate) folder: TempDir,
    pub(crate) address: SocketAddr,
    process: Child,
}

impl Registry {
    /// One that serves everybody, or those whom a file of `htpasswd` has.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn start(htpasswd: Option<&str>) -> Result<Self, String> {
        if Command::new("docker-registry").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            return Err("`docker-registry` is not installed: cargo xtask setup installs it".to_owned());
        }
        // Between choosing a port and taking it somebody else may take it.
        (0..10).find_map(|_| Self::try_start(htpasswd)).ok_or_else(|| "docker-registry does not start".to_owned())
    }

    fn try_start(users: Option<&str>) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let storage = folder.path().join("storage");
        let htpasswd = folder.path().join("htpasswd");
        fs::write(&htpasswd, users.unwrap_or_default()).unwrap();
        let auth = format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", htpasswd.display());
        let configuration = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{}",
            storage.display(),
            if users.is_some() { &auth } else { "" }
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
        Some(Self { folder, address, process })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
