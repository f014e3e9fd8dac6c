use std::path::Path;

use sandbar_core::{Probe, Result};
use sandbar_guest::KernelStore;

use super::{
    FirecrackerOptions,
    engine::{self, Engine},
    info,
};
use crate::{kvm::Noted, vmm};

/// Says whether machines can be made here. Starts Firecracker for its version only.
pub(super) fn probe(home: &Path, kvm: &Noted, options: &FirecrackerOptions) -> Probe {
    match look(home, kvm, options) {
        Ok(verdict) => Probe { usable: true, verdict, hint: None },
        Err(error) => Probe { usable: false, verdict: error.message().to_owned(), hint: error.hint().map(str::to_owned) },
    }
}

fn look(home: &Path, kvm: &Noted, options: &FirecrackerOptions) -> Result<String> {
    engine::require_kvm(kvm)?;
    let engine = Engine::find(options)?;
    let version = engine.version()?;
    vmm::require_programs(info::NAME, &[])?;
    let kernel = KernelStore::new(home).newest()?;
    Ok(format!("Firecracker {version}, {}; kernel {}", info::jail(Some(&engine), engine::is_root()), kernel.summary.release))
}
