use std::path::PathBuf;

use tempfile::TempDir;

use super::runc::Runc;
use crate::{Result, case::life::Bare};

/// What `runsc` is told, and our own wall tells it.
const OPTIONS: [&str; 3] = ["--network=none", "--overlay2=none", "--platform=systrap"];

/// `runsc` alone, with the host's programs.
pub struct Runsc {
    runtime: Runc,
    images: TempDir,
}

impl Runsc {
    /// Makes the bundle.
    pub fn new() -> Result<Self> {
        Ok(Self { runtime: Runc::of("runsc", &OPTIONS)?, images: TempDir::new()? })
    }

    fn image(&self, of: &str) -> PathBuf {
        self.images.path().join(of)
    }
}

impl Bare for Runsc {
    const WORDS: [&str; 4] =
        ["`runsc run` + `runsc exec`", "`runsc exec`", "`runsc checkpoint --leave-running`", "`runsc restore` + `runsc exec`"];

    async fn create(&self, name: &str) -> Result {
        self.runtime.start_idle(name).await?;
        self.runtime.exec(name).await
    }

    async fn exec(&self, name: &str) -> Result {
        self.runtime.exec(name).await
    }

    async fn checkpoint(&self, name: &str) -> Result {
        std::fs::create_dir(self.image(name))?;
        self.runtime.checkpoint(name, &self.image(name)).await
    }

    async fn restore(&self, of: &str, name: &str) -> Result {
        self.runtime.restore(name, &self.image(of)).await?;
        self.runtime.exec(name).await
    }

    async fn end(&self, name: &str) -> Result {
        self.runtime.end_idle(name).await?;
        if self.image(name).exists() {
            std::fs::remove_dir_all(self.image(name))?;
        }
        Ok(())
    }

    async fn mark(&self, name: &str) -> Result<String> {
        Ok(name.to_owned())
    }
}
