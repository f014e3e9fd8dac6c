//! What the guest prints on its serial port: a pipe that Firecracker holds by both ends and never waits for, so that a guest that prints for ever
//! fills no disk. Whoever boots a machine holds it too, and can say why it did not come up.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{LazyLock, Mutex, PoisonError},
};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

/// The pipe, in the generation's folder.
const PIPE: &str = "console";
/// What Firecracker itself says.
pub(super) const LOG: &str = "firecracker.log";
/// A pipe holds this much.
const MOST: u64 = 64 << 10;
const LONGEST: usize = 300;

/// The pipes of machines that this process has started: what is in a pipe is gone with the last who holds it.
static HELD: LazyLock<Mutex<HashMap<PathBuf, File>>> = LazyLock::new(Mutex::default);

/// Makes the pipe of a machine; for its standard output.
///
/// # Errors
/// Of the kernel.
pub(super) fn make(folder: &Path) -> io::Result<File> {
    let path = folder.join(PIPE);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let open = || File::options().read(true).write(true).custom_flags(flags).open(&path);
    let held = open()?;
    HELD.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned(), held);
    open()
}

/// Lets go of a machine's pipe.
pub(super) fn forget(folder: &Path) {
    HELD.lock().unwrap_or_else(PoisonError::into_inner).remove(folder);
    let _ = fs::remove_file(folder.join(PIPE));
}

/// What is known of why a machine ended: the agent's last line, the kernel's panic, or Firecracker's.
pub(super) fn why(folder: &Path) -> Option<String> {
    let console = {
        let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = Vec::new();
        if let Some(mut pipe) = held.get(folder) {
            // It says so when there is no more.
            let _ = Read::take(&mut pipe, MOST).read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    };
    let last = |mark: &str| console.lines().rev().find_map(|line| line.find(mark).map(|at| line[at..].to_owned()));
    let log = fs::read_to_string(folder.join(LOG)).unwrap_or_default();
    let said = log.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned);
    let printed = || console.lines().map(str::trim).rfind(|line| !line.is_empty()).map(str::to_owned);
    let found = last("sandbar-agent: ").or_else(|| last("Kernel panic")).or(said).or_else(printed)?;
    Some(found.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).take(LONGEST).collect())
}
