use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use sandbar_core::{Context as _, Result};

use super::{Kernel, cpio::Cpio, staging::Staging};

/// The first file system of guests with this kernel and this agent: `/init` is the agent, `/modules` what it loads, in the order that
/// `/modules/order` tells. Made at the first use, beside the kernel; named after the agent, of which `agent_digest` is the digest.
///
/// Blocks for some milliseconds, when it must be made.
///
/// # Errors
/// Of the file system.
pub fn initramfs(kernel: &Kernel, agent: &Path, agent_digest: &str) -> Result<PathBuf> {
    let name = format!("initramfs-{}.cpio", agent_digest.get(..16).unwrap_or(agent_digest));
    let path = kernel.folder().join(&name);
    if path.exists() {
        return Ok(path);
    }
    let staging = Staging::new(kernel.folder())?;
    let new = staging.path().join(&name);
    let make = || {
        let mut cpio = Cpio::new(File::create(&new)?);
        // The kernel opens it for the first process, before that has mounted anything.
        cpio.folder("dev", 0o755)?;
        cpio.device("dev/console", 0o600, (5, 1))?;
        cpio.file("init", 0o700, &fs::read(agent)?)?;
        let mut file = cpio.finish()?;
        // A further archive is unpacked over the first.
        file.write_all(&fs::read(kernel.modules())?)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    };
    let made: io::Result<()> = make();
    made.context("guest", || format!("cannot make {}", path.display()))?;
    Ok(path)
}
