use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
};

use sandbar_core::{Context as _, Error, ErrorKind, Result};

const OPERATION: &str = "scratch disk";
/// Where distributions put it.
const MKFS: [&str; 3] = ["/usr/sbin/mkfs.ext4", "/sbin/mkfs.ext4", "/usr/bin/mkfs.ext4"];

/// The writable disk of one guest: an empty ext4 in a sparse file, which takes only what is written.
#[derive(Debug, Clone, Copy)]
pub struct Scratch;

impl Scratch {
    /// The smallest: an ext4 with a journal of 4 MiB and anything in it.
    pub const LEAST: u64 = 16 << 20;
    /// The size of a disk that nobody asked to limit. Sparse: it costs what is written.
    pub const DEFAULT: u64 = 16 << 30;

    /// Whether disks can be made here.
    pub fn is_available() -> bool {
        MKFS.iter().any(|path| Path::new(path).exists())
    }

    /// Makes one. Blocks for some milliseconds.
    ///
    /// # Errors
    /// `InvalidInput` for less than a file system needs; `Unavailable` without `mkfs.ext4`.
    pub fn make(path: &Path, bytes: u64) -> Result<()> {
        if bytes < Self::LEAST {
            return Err(Error::new(ErrorKind::InvalidInput, OPERATION, "the disk limit is too small for a file system")
                .with("bytes", bytes)
                .with("least", Self::LEAST));
        }
        let program = MKFS.iter().find(|path| Path::new(path).exists()).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, OPERATION, "mkfs.ext4 is missing").with_hint("install e2fsprogs: sandbar setup qemu")
        })?;
        File::create(path).and_then(|file| file.set_len(bytes)).context(OPERATION, || format!("cannot make {}", path.display()))?;
        // A small journal: a guest may be killed at any moment, and the disk must be usable afterwards.
        let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0";
        let output = Command::new(program)
            .args(["-q", "-F", "-b", "4096", "-m", "0", "-J", "size=4", "-E", options])
            .arg(path)
            .stdin(Stdio::null())
            .output()
            .context(OPERATION, || format!("cannot run {program}"))?;
        if output.status.success() {
            return Ok(());
        }
        let _ = fs::remove_file(path);
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(Error::new(ErrorKind::Internal, OPERATION, "mkfs.ext4 failed").with_source(std::io::Error::other(said)))
    }
}
