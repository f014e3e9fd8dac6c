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

/// A bundle with the host's programs, and the runtime's own state beside it.
pub struct Runc {
    program: &'static str,
    options: &'static [&'static str],
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
        Self::of("runc", &[])
    }

    /// Makes the bundle for another runtime that is used like runc, with options before each of its verbs.
    pub fn of(program: &'static str, options: &'static [&'static str]) -> Result<Self> {
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
        Ok(Self { program, options, folder, count: AtomicU32::new(0) })
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
        let root = ["--root".to_owned(), root.display().to_string()];
        root.into_iter().chain(self.options.iter().chain(rest).map(ToString::to_string)).collect()
    }

    /// Create, one command, destroy.
    pub async fn once(&self) -> Result {
        let id = format!("bench-{}-{}", std::process::id(), self.count.fetch_add(1, Ordering::Relaxed));
        run(self.program, &self.arguments(&["run", "--bundle", &self.bundle().display().to_string(), &id])).await
    }

    /// Prepares `run` to execute `/bin/true`.
    pub fn prepare_once(&self) -> Result {
        self.set_command(&["/bin/true"])
    }

    /// Starts a container that idles.
    pub async fn start_idle(&self, id: &str) -> Result {
        self.set_command(&["/bin/sleep", "1000000"])?;
        let bundle = self.bundle().display().to_string();
        let mut command = Command::new(self.program);
        command.args(self.arguments(&["run", "--detach", "--bundle", &bundle, id]));
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await?;
        if status.success() { Ok(()) } else { Err(format!("{} run --detach: {status}", self.program).into()) }
    }

    /// One command in it.
    pub async fn exec(&self, id: &str) -> Result {
        run(self.program, &self.arguments(&["exec", id, "/bin/true"])).await
    }

    /// Ends it.
    pub async fn end_idle(&self, id: &str) -> Result {
        run(self.program, &self.arguments(&["delete", "--force", id])).await
    }
    /// Saves it with memory, and lets it run on.
    pub async fn checkpoint(&self, id: &str, image: &Path) -> Result {
        let image = format!("--image-path={}", image.display());
        run(self.program, &self.arguments(&["checkpoint", &image, "--compression=none", "--leave-running", id])).await
    }

    /// Starts one from what was saved.
    pub async fn restore(&self, id: &str, image: &Path) -> Result {
        let (image, bundle) = (format!("--image-path={}", image.display()), self.bundle().display().to_string());
        let mut command = Command::new(self.program);
        command.args(self.arguments(&["restore", "--detach", "--bundle", &bundle, &image, id]));
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().await?;
        if status.success() { Ok(()) } else { Err(format!("{} restore: {status}", self.program).into()) }
    }
}
