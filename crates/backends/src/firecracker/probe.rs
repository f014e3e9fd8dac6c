use std::path::Path;

use sandbar_core::{Error, ErrorKind, Probe, Result};
use sandbar_guest::{KernelStore, RootImage, Scratch};

use super::{
    FirecrackerOptions,
    engine::{self, Engine},
    info,
};
use crate::kvm::Noted;

/// Says whether machines can be made here. Starts Firecracker for its version only.
pub(super) fn probe(home: &Path, kvm: &Noted, options: &FirecrackerOptions) -> Probe {
    match look(home, kvm, options) {
        Ok(verdict) => Probe { usable: true, verdict, hint: None },
        Err(error) => Probe { usable: false, verdict: error.message().to_owned(), hint: error.hint().map(str::to_owned) },
    }
}

fn look(home: &Path, kvm: &Noted, options: &FirecrackerOptions) -> Result<String> {
    let missing = |what: &str| {
        Error::new(ErrorKind::Unavailable, "probe", format!("{what} is missing"))
            .with_hint("Debian's packages are squashfs-tools and e2fsprogs: sandbar setup firecracker")
    };
    engine::require_kvm(kvm)?;
    let engine = Engine::find(options)?;
    let version = engine.version()?;
    if !RootImage::is_available() {
        return Err(missing("sqfstar (squashfs-tools 4.5)"));
    }
    if !Scratch::is_available() {
        return Err(missing("mkfs.ext4"));
    }
    let kernel = KernelStore::new(home).newest()?;
    Ok(format!("Firecracker {version}, {}; kernel {}", info::jail(Some(&engine)), kernel.summary.release))
}
