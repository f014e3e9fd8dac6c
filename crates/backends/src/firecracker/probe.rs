use std::path::Path;

use sandbar_core::{Probe, Result};
use sandbar_guest::KernelStore;

use super::{
    FirecrackerOptions,
    engine::{self, Engine},
    info,
    version::try_jailer,
};
use crate::{kvm::Noted, vmm};

/// Says whether machines can be made here: a guest runs in KVM, the programs run, and disks are made. What boots is tried by a sandbox alone.
pub(super) fn probe(home: &Path, kvm: &Noted, options: &FirecrackerOptions) -> Probe {
    match look(home, kvm, options) {
        Ok(verdict) => Probe { usable: true, verdict, hint: None },
        Err(error) => Probe { usable: false, verdict: error.chain(), hint: error.hint().map(str::to_owned) },
    }
}

fn look(home: &Path, kvm: &Noted, options: &FirecrackerOptions) -> Result<String> {
    engine::require_kvm(&kvm.try_anew())?;
    let engine = Engine::find(options)?;
    let version = engine.version()?;
    engine.jailer.as_deref().map_or(Ok(()), try_jailer)?;
    vmm::require_programs(info::NAME, &[])?;
    vmm::try_disks(home)?;
    let kernel = KernelStore::new(home).newest()?;
    Ok(format!("Firecracker {version}, {}; kernel {}", info::jail(Some(&engine), engine::is_root()), kernel.summary.release))
}
