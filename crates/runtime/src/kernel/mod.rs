//! The kernels that virtual machines boot: the store's face to the command line, and the distribution's own kernel.

use std::path::PathBuf;

use sandbar_core::{Error, ErrorKind, Result};
use sandbar_guest::{KernelStore, KernelSummary};
use tokio::io::AsyncRead;

use crate::{Runtime, root::receive};

/// Bytes of a kernel, or of its package: many times those of any.
const MOST: u64 = 2 << 30;

impl Runtime {
    /// The kernels of this state folder.
    pub fn kernels(&self) -> KernelStore {
        KernelStore::new(self.home().path())
    }

    /// Takes in a kernel; see [`KernelStore::import`].
    ///
    /// # Errors
    /// As there.
    pub async fn import_kernel(&self, file: PathBuf, modules: Option<PathBuf>, name: Option<String>) -> Result<KernelSummary> {
        let deed = self.deed("kernel-import").at(file.display());
        let store = self.kernels();
        let imported = tokio::task::spawn_blocking(move || store.import(&file, modules.as_deref(), name.as_deref())).await;
        let cut_off = |error| Error::new(ErrorKind::Internal, "kernel import", "the work was cut off").with_source(error);
        deed.end(imported.map_err(cut_off).and_then(|imported| imported))
    }

    /// Takes in a kernel as it arrives: one that has everything built in, or a Debian package, which has its modules with it.
    ///
    /// # Errors
    /// As for [`import_kernel`](Self::import_kernel); `ResourceExhausted` for one that is larger than any kernel.
    pub async fn receive_kernel(&self, content: &mut (dyn AsyncRead + Send + Unpin), name: Option<String>) -> Result<KernelSummary> {
        let folder = self.images().temporary().await?;
        let path = folder.path().join("kernel");
        receive(content, &path, MOST, "kernel import").await?;
        self.import_kernel(path, None, name).await
    }

    /// Removes a kernel; see [`KernelStore::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn remove_kernel(&self, name: &str) -> Result<()> {
        self.deed("kernel-remove").at(name).end(self.kernels().remove(name))
    }
}
