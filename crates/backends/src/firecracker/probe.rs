use std::path::Path;

use sandbar_core::{Error, ErrorKind, Probe, Result};
use sandbar_guest::{KernelStore, RootImage, Scratch};

use super::{info, version::Version};
use crate::kvm;

/// Says whether machines can be made here. Runs a small guest of our own, and Firecracker for its version only.
pub(super) fn probe(home: &Path) -> Probe {
    match look(home) {
        Ok(verdict) => Probe { usable: true, verdict, hint: None },
        Err(error) => Probe { usable: false, verdict: error.message().to_owned(), hint: error.hint().map(str::to_owned) },
    }
}

fn look(home: &Path) -> Result<String> {
    let missing = |what: &str, hint: &str| Error::new(ErrorKind::Unavailable, "probe", format!("{what} is missing")).with_hint(hint);
    let finding = kvm::probe();
    if !finding.is_usable() {
        let error = Error::new(ErrorKind::Unavailable, "probe", finding.to_string());
        return Err(match finding.hint() {
            Some(hint) => error.with_hint(hint),
            None => error,
        });
    }
    let program = info::program("firecracker")
        .ok_or_else(|| missing("firecracker", "put Firecracker's released programs `firecracker` and `jailer` into /usr/local/bin"))?;
    let version = Version::of(&program)?;
    let packages = "Debian's packages are squashfs-tools and e2fsprogs";
    if !RootImage::is_available() {
        return Err(missing("sqfstar (squashfs-tools 4.5)", packages));
    }
    if !Scratch::is_available() {
        return Err(missing("mkfs.ext4", packages));
    }
    let kernel = KernelStore::new(home).newest()?;
    let jail = if info::is_jailed() { "jailer" } else { "no jailer" };
    let vsock = if version < Version::MENDED_VSOCK { "; before 1.16.1 a guest's own vsock connections can hang after a load" } else { "" };
    Ok(format!("Firecracker {version}, {jail}; kernel {}{vsock}", kernel.summary.release))
}
