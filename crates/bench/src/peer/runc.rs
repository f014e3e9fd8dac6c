use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::{answers, run};
use crate::Result;

/// A bundle with the host's programs, and runc's own state beside it.
pub struct Runc {
    folder: TempDir,
    count: AtomicU32,
}

impl Runc {
    /// Whether it is here.
    pub async fn is_here() -> bool {
        answers("runc", &["--version"]).await
    }

    /// Makes the bundle.
    pub fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let root = folder.path().join("rootfs");
        for name in ["usr", "proc", "dev", "sys", "tmp"] {
            fs::create_dir_all(root.join(name))?;
        }
        let mut mounts = Vec::new();
        for name in ["usr", "bin", "sbin", "lib", "lib64"] {
            let host = Path::new("/").join(name);
            if let Ok(target) = fs::read_link(&host) {
                symlink(target, root.join(name))?;
            } else if host.exists() {
                fs::create_dir_all(root.join(name))?;
                mounts.push(json!({"destination": host, "source": host, "type": "none", "options": ["rbind", "ro"]}));
            }
        }
        let status = std::process::Command::new("runc").arg("spec").current_dir(folder.path()).status()?;
        if !status.success() {
            return Err("runc spec failed".into());
        }
        let path = folder.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["terminal"] = json!(false);
        if let Some(list) = config["mounts"].as_array_mut() {
            list.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
            list.extend(mounts);
        }
        fs::write(&path, config.to_string())?;
        Ok(Self { folder, count: AtomicU32::new(0) })
    }

    fn set_command(&self, command: &[&str]) -> Result {
        let path = self.bundle().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["args"] = json!(command);
        fs::write(&path, config.to_string())?;
        Ok(())
    }

    fn bundle(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    fn arguments(&self, rest: &[&str]) -> Vec<String> {
        let root = self.folder.path().join("state");
        ["--root".to_owned(), root.display().to_string()].into_iter().chain(rest.iter().map(ToString::to_string)).collect()
    }

    /// Create, one command, destroy.
    pub async fn once(&self) -> Result {
        let id = format!("bench-{}-{}", std::process::id(), self.count.fetch_add(1, Ordering::Relaxed));
        run("runc", &self.arguments(&["run", "--bundle", &self.bundle().display().to_string(), &id])).await
    }

    /// Prepares `run` to execute `/bin/true`.
    pub fn prepare_once(&self) -> Result {
        self.set_command(&["/bin/true"])
    }

    /// Starts a container that idles.
    pub async fn start_idle(&self, id: &str) -> Result {
        self.set_command(&["/bin/sleep", "1000000"])?;
        let bundle = self.bundle().display().to_string();
        let mut command = Command::new("runc");
        command.args(self.arguments(&["run", "--detach", "--bundle", &bundle, id]));
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await?;
        if status.success() { Ok(()) } else { Err(format!("runc run --detach: {status}").into()) }
    }

    /// One command in it.
    pub async fn exec(&self, id: &str) -> Result {
        run("runc", &self.arguments(&["exec", id, "/bin/true"])).await
    }

    /// Ends it.
    pub async fn end_idle(&self, id: &str) -> Result {
        run("runc", &self.arguments(&["delete", "--force", id])).await
    }
}
