use std::{net::SocketAddr, path::Path, process::Command};

use super::served;

/// A real registry on loopback, which ends with the case.
pub struct Registry(served::Registry);

impl Registry {
    /// What has to be installed.
    pub const NEEDS: &[&str] = &["/usr/bin/docker-registry", "/usr/bin/skopeo", "/usr/bin/setpriv", "/usr/bin/ldd"];

    pub fn start() -> Self {
        Self(served::Registry::start(None).unwrap())
    }

    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Pushes an OCI archive, and tells the name under which it is there.
    pub fn push(&self, archive: &Path, repository: &str) -> String {
        let reference = format!("{}/{repository}:t", self.address());
        let output = Command::new("/usr/bin/skopeo")
            .args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"])
            .arg(format!("oci-archive:{}", archive.display()))
            .arg(format!("docker://{reference}"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(self.0.folder.path().join("storage/docker/registry/v2/repositories").join(repository).exists());
        reference
    }
}
