use std::{fmt::Write, fs, path::Path};

use sandbar_core::{ExecRequest, Limits, SandboxSpec};
use sandbar_runtime::{CreateRequest, Runtime, RuntimeConfig, Sandbox};
use tempfile::TempDir;

use crate::Result;

/// A runtime with a state folder of its own, so that a measurement meets no other sandbox.
pub struct Stage {
    /// The runtime.
    pub runtime: Runtime,
    folder: TempDir,
}

impl Stage {
    /// An empty one, in the folder of the machine's temporary files; with the engine of the provider `docker`. Its configuration lies in the folder, so
    /// that the library and the command have the same.
    pub async fn new(docker_host: Option<&str>) -> Result<Self> {
        let folder = TempDir::new()?;
        let mut config = String::new();
        if let Some(host) = docker_host {
            writeln!(config, "docker-host = {host:?}")?;
        }
        let firecracker = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/lab/bin/firecracker");
        if firecracker.exists() {
            writeln!(config, "[firecracker]\nfirecracker = {firecracker:?}")?;
        }
        fs::write(folder.path().join("sandbar.toml"), config)?;
        let runtime = Self::runtime_at(folder.path()).await?;
        Ok(Self { runtime, folder })
    }

    /// A runtime on a state folder that is there.
    pub async fn runtime_at(folder: &Path) -> Result<Runtime> {
        Ok(Runtime::open(RuntimeConfig::at(folder)?).await?)
    }

    /// Its state folder.
    pub fn home(&self) -> &Path {
        self.folder.path()
    }

    /// A container with these limits.
    pub async fn container(&self, limits: Limits) -> Result<Sandbox> {
        let spec = SandboxSpec { limits, ..SandboxSpec::default() };
        self.sandbox("container", None, spec).await
    }

    /// A sandbox of a provider, with an image or its default.
    pub async fn sandbox(&self, provider: &str, image: Option<&str>, spec: SandboxSpec) -> Result<Sandbox> {
        let (provider, image) = (Some(provider.to_owned()), image.map(str::to_owned));
        Ok(self.runtime.create(CreateRequest { provider, image, spec, ..CreateRequest::default() }).await?)
    }

    /// Create, one command, destroy.
    pub async fn cycle(&self, limits: Limits) -> Result {
        let sandbox = self.container(limits).await?;
        let outcome = truth(&sandbox).await;
        sandbox.destroy().await?;
        outcome
    }

    /// Destroys what a measurement has left.
    pub async fn clear(&self) -> Result {
        self.destroy_all(None).await
    }

    /// Destroys every sandbox but this one.
    pub async fn clear_but(&self, kept: &Sandbox) -> Result {
        self.destroy_all(Some(kept)).await
    }

    async fn destroy_all(&self, but: Option<&Sandbox>) -> Result {
        for left in self.runtime.list().await?.into_iter().filter(|left| but.is_none_or(|kept| left.id != *kept.id())) {
            self.runtime.sandbox(left.id.as_str()).await?.destroy().await?;
        }
        Ok(())
    }
}

/// Runs `/bin/true` in it.
pub async fn truth(sandbox: &Sandbox) -> Result {
    let result = sandbox.exec(ExecRequest::argv(["/bin/true"])).await?;
    if result.status.success() { Ok(()) } else { Err(format!("true: {}", result.status).into()) }
}
