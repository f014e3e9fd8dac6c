//! The agent of this build, embedded, and its file in the state folder.

use std::{
    fs,
    io::{self, Write},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use sandbar_core::{Error, Result};

/// The agent of this build: a static program for this machine.
static PROGRAM: &[u8] = include_bytes!(env!("SANDBAR_AGENT_PATH"));
/// Its SHA-256, hexadecimal.
const DIGEST: &str = env!("SANDBAR_AGENT_DIGEST");
/// How much of the digest names its folder: enough that two builds never meet.
const NAMED: usize = 12;

/// The agent on disk: one file for all sandboxes, so that its pages are shared. Taken out of this program at the first use.
///
/// The file is named by its digest, written under another name and renamed, never changed afterwards. Sandboxes that run keep
/// theirs when sandbar is updated.
#[derive(Debug)]
pub struct AgentFile {
    path: PathBuf,
    ready: OnceLock<()>,
}

impl AgentFile {
    /// The agent of this build in the state folder `home`. Touches nothing.
    pub fn new(home: &Path) -> Self {
        Self { path: home.join("agent").join(&DIGEST[..NAMED]).join("sandbar-agent"), ready: OnceLock::new() }
    }

    /// The path of the program, which is there and complete when this returns. Blocks for one `stat`, or for writing the file.
    ///
    /// # Errors
    /// `PermissionDenied` or `ResourceExhausted` when the state folder cannot be written.
    pub fn path(&self) -> Result<&Path> {
        // Once for each process: the file is not meant to vanish. When somebody removed it, starting says so.
        if self.ready.get().is_none() {
            if !is_complete(&self.path) {
                self.extract().map_err(|error| {
                    Error::io("agent", "cannot write the agent into the state folder", error)
                        .with("path", self.path.display())
                        .with_hint("SANDBAR_HOME must be a folder that can be written and has a few MiB left")
                })?;
            }
            let _ = self.ready.set(());
        }
        Ok(&self.path)
    }

    /// The SHA-256 of the program, hexadecimal.
    pub fn digest() -> &'static str {
        DIGEST
    }

    fn extract(&self) -> io::Result<()> {
        let folder = self.path.parent().ok_or_else(|| io::Error::other("the path has no folder"))?;
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
        let mut random = [0; 8];
        getrandom::fill(&mut random)?;
        let temporary = folder.join(format!(".new-{:016x}", u64::from_ne_bytes(random)));
        let written =
            write_program(&temporary).and_then(|()| until_nobody_writes(&temporary)).and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn write_program(path: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(PROGRAM)?;
    file.set_permissions(fs::Permissions::from_mode(0o555))
}

/// Returns when no process has the file open for writing. A child that another thread cloned meanwhile holds a copy of our descriptor until it has
/// closed it, and a program that is open for writing cannot be executed (`ETXTBSY`). The kernel gives a read lease only when there is no writer.
pub(crate) fn until_nobody_writes(path: &Path) -> io::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let file = fs::File::open(path)?;
    let begun = Instant::now();
    loop {
        match lease_for_reading(&file) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_micros(100));
            }
            // Given, and given back when the file is closed; or a file system that has no leases.
            _ => return Ok(()),
        }
    }
}

#[expect(unsafe_code, reason = "leases have no safe wrapper")]
fn lease_for_reading(file: &fs::File) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that is open.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A file of this name can only be ours and whole: the rename is the last step, and nobody else may write into the folder.
fn is_complete(path: &Path) -> bool {
    let ours = |metadata: &fs::Metadata| metadata.uid() == 0 || metadata.uid() == rustix::process::geteuid().as_raw();
    fs::symlink_metadata(path)
        .is_ok_and(|found| found.is_file() && found.len() == PROGRAM.len() as u64 && found.mode() & 0o111 == 0o111 && ours(&found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_extracted_once_and_by_many_at_the_same_time() {
        let home = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| AgentFile::new(home.path()).path().unwrap().to_owned());
            }
        });
        let file = AgentFile::new(home.path());
        let path = file.path().unwrap();
        assert_eq!(fs::read(path).unwrap(), PROGRAM);
        assert_eq!(fs::metadata(path).unwrap().mode() & 0o7777, 0o555);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_torn_file_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        let path = AgentFile::new(home.path()).path().unwrap().to_owned();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"half").unwrap();
        assert_eq!(fs::read(AgentFile::new(home.path()).path().unwrap()).unwrap(), PROGRAM);
    }

    #[test]
    fn a_state_folder_that_cannot_be_made_is_told_with_its_path() {
        let error = AgentFile::new(Path::new("/proc/nowhere")).path().unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("SANDBAR_HOME")));
    }
}
