use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

/// A real registry on loopback, which ends with the tests.
pub struct Registry {
    pub address: SocketAddr,
    process: Child,
    _folder: TempDir,
}

impl Registry {
    /// What has to be installed.
    pub const NEEDS: &[&str] = &["/usr/bin/docker-registry", "/usr/bin/skopeo", "/usr/bin/setpriv", "/usr/bin/ldd"];

    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let file = folder.path().join("configuration.yml");
        let storage = folder.path().join("storage");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            storage.display()
        );
        fs::write(&file, text).unwrap();
        let mut process = Command::new("/usr/bin/setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        assert!(lines.by_ref().map_while(Result::ok).any(|line| line.contains("listening on")), "docker-registry does not start");
        // It must be able to go on writing.
        std::thread::spawn(move || lines.for_each(drop));
        Self { address, process, _folder: folder }
    }

    /// Pushes an OCI archive, and tells the name under which it is there.
    pub fn push(&self, archive: &Path, repository: &str) -> String {
        let reference = format!("{}/{repository}:t", self.address);
        let output = Command::new("/usr/bin/skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://{reference}"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        reference
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
