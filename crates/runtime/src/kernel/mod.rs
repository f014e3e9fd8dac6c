//! The kernels that virtual machines boot: the store's face to the command line, and the distribution's own kernel.

use std::path::PathBuf;

use sandbar_core::{Error, ErrorKind, Result};
use sandbar_guest::{KernelStore, KernelSummary};

use crate::Runtime;

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

    /// Removes a kernel; see [`KernelStore::remove`].
    ///
    /// # Errors
    /// As there.
    pub fn remove_kernel(&self, name: &str) -> Result<()> {
        self.deed("kernel-remove").at(name).end(self.kernels().remove(name))
    }
}
