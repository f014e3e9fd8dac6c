use std::path::Path;

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
    /// An empty one, in the folder of the machine's temporary files.
    pub async fn new() -> Result<Self> {
        let folder = TempDir::new()?;
        let runtime = Runtime::open(RuntimeConfig::new(folder.path())).await?;
        Ok(Self { runtime, folder })
    }

    /// Its state folder.
    pub fn home(&self) -> &Path {
        self.folder.path()
    }

    /// A container with these limits.
    pub async fn container(&self, limits: Limits) -> Result<Sandbox> {
        self.sandbox("container", limits).await
    }

    /// A sandbox of a provider with these limits.
    pub async fn sandbox(&self, provider: &str, limits: Limits) -> Result<Sandbox> {
        let spec = SandboxSpec { limits, ..SandboxSpec::default() };
        let request = CreateRequest { provider: Some(provider.to_owned()), spec, ..CreateRequest::default() };
        Ok(self.runtime.create(request).await?)
    }

    /// Create, one command, destroy.
    pub async fn cycle(&self, limits: Limits) -> Result {
        let sandbox = self.container(limits).await?;
        let outcome = truth(&sandbox).await;
        sandbox.destroy().await?;
        outcome
    }
}

/// Runs `/bin/true` in it.
pub async fn truth(sandbox: &Sandbox) -> Result {
    let result = sandbox.exec(ExecRequest::argv(["/bin/true"])).await?;
    if result.status.success() { Ok(()) } else { Err(format!("true: {}", result.status).into()) }
}
