//! On the host: what a machine prints, kept up to a bound.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal},
};

/// The newest of it, and what was before: in the machine's folder.
const LOG: &str = "console.log";
const OLD_LOG: &str = "console.old";
/// Each of the two at most.
const MOST_LOG: u64 = 256 << 10;

/// The newest of something that may be without end.
pub(crate) struct Log {
    folder: PathBuf,
    file: File,
    size: u64,
}

impl Log {
    /// Goes on with the log in a folder.
    ///
    /// # Errors
    /// Of the file system.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        let file = append(folder)?;
        let size = file.metadata()?.len();
        Ok(Self { folder: folder.to_owned(), file, size })
    }

    /// Keeps some more, and drops what is too old.
    ///
    /// # Errors
    /// When there is no log any more. A full disk is none: it costs what is written now, and nothing else.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.size + bytes.len() as u64 > MOST_LOG {
            let _ = fs::rename(self.folder.join(LOG), self.folder.join(OLD_LOG));
            self.file = append(&self.folder)?;
            self.size = 0;
        }
        let _ = self.file.write_all(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }
}

fn append(folder: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(folder.join(LOG))
}

/// `console FOLDER [OWNER MACHINE]`: keeps what comes on stdin, until its end, which is the machine's. Writes a byte to stdout when it begins.
///
/// With an owner, the process that started both, the machine is killed when that is gone. The kernel's own way of that is of no use to a monitor that
/// changes its user: it forgets the request then.
///
/// # Errors
/// Of the kernel, or when the owner is gone already: then the machine has not begun, and does not.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidInput, "console FOLDER [OWNER MACHINE]");
    let folder = arguments.next().map(PathBuf::from).ok_or_else(malformed)?;
    let mut number = || -> Option<Pid> { Pid::from_raw(arguments.next()?.to_str()?.parse().ok()?) };
    let mut owned = match number() {
        Some(owner) => Some(Owned::new(owner, number().ok_or_else(malformed)?)?),
        None => None,
    };
    // No terminal's signal reaches it.
    let _ = rustix::process::setsid();
    std::env::set_current_dir(&folder)?;
    let mut log = Some(Log::open(Path::new("."))?);
    io::stdout().write_all(b"1").and_then(|()| io::stdout().flush())?;
    let null = rustix::fs::open(c"/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdout(&null)?;
    let mut buffer = vec![0; 4096];
    loop {
        if let Some(both) = &owned {
            let news = both.wait()?;
            if news.owner_is_gone {
                // A machine that is gone is no error.
                let _ = rustix::process::pidfd_send_signal(&both.machine, Signal::KILL);
                owned = None;
            }
            if !news.printed {
                continue;
            }
        }
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => return Ok(()),
            // The owner is to be followed also without a log.
            Ok(length) if log.as_mut().is_some_and(|log| log.append(&buffer[..length]).is_err()) => log = None,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Two processes, held so that they cannot be mistaken.
struct Owned {
    owner: OwnedFd,
    machine: OwnedFd,
}

/// Why a wait has ended.
struct News {
    printed: bool,
    owner_is_gone: bool,
}

impl Owned {
    /// Waits until something is printed, or the owner is gone.
    fn wait(&self) -> io::Result<News> {
        let mut watched = [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN), PollFd::new(&self.owner, PollFlags::IN)];
        match poll(&mut watched, None) {
            Err(Errno::INTR) | Ok(_) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [printed, owner_is_gone] = watched.map(|descriptor| !descriptor.revents().is_empty());
        Ok(News { printed, owner_is_gone })
    }

    fn new(owner: Pid, machine: Pid) -> io::Result<Self> {
        let held = |pid| rustix::process::pidfd_open(pid, PidfdFlags::empty());
        let owned = Self { owner: held(owner)?, machine: held(machine)? };
        // Both are children of the owner, as long as it lives; and a child that nobody has waited for keeps its number.
        let parent = crate::procfs::of(machine.as_raw_pid()).map(|row| row.parent());
        if rustix::process::getppid() == Some(owner) && parent == Some(owner.as_raw_pid()) {
            Ok(owned)
        } else {
            Err(io::Error::other("the owner is gone"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_the_newest_and_is_bounded() {
        let home = tempfile::tempdir().unwrap();
        let mut log = Log::open(home.path()).unwrap();
        for number in 0..40_000 {
            log.append(format!("this is line {number:08}\n").as_bytes()).unwrap();
        }
        drop(log);
        Log::open(home.path()).unwrap().append(b"and one more").unwrap();
        let (new, old) = (fs::read_to_string(home.path().join(LOG)).unwrap(), fs::read_to_string(home.path().join(OLD_LOG)).unwrap());
        assert!(new.len() as u64 <= MOST_LOG && old.len() as u64 <= MOST_LOG);
        assert!((old + &new).ends_with("this is line 00039998\nthis is line 00039999\nand one more"));
    }
}
