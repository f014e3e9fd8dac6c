//! `runsc`: found, its version, and commands to a sandbox that runs.
#![expect(unsafe_code, reason = "a command enters a sandbox's namespaces between fork and exec")]

use std::{
    env,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::fs::{Access, AtFlags, CWD, Mode, OFlags, accessat, openat};
use sandbar_core::{Context, Error, ErrorKind, Result};

use super::{GvisorOptions, Platform, version::Version};
use crate::{
    Distribution,
    host::{
        asked::{Said, ask},
        syscall,
    },
};

pub(super) const OPERATION: &str = "runsc";
/// Names the program where no option does.
pub(super) const VARIABLE: &str = "RUNSC_PATH";
/// Where it may be beside the folders of `PATH`.
const FOLDERS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/sbin", "/usr/local/sbin"];
/// How long saying its version may take.
const QUICK: Duration = Duration::from_secs(10);

/// The folder of `runsc`'s state, as its processes see it.
pub(super) const STATE: &str = "/state";

/// `runsc` as it was found.
#[derive(Debug, Clone)]
pub(super) struct Engine {
    /// The program.
    pub(super) path: PathBuf,
    /// How it gets hold of system calls.
    pub(super) platform: Platform,
}

impl Engine {
    /// Finds it: by option, by `RUNSC_PATH`, on `PATH`. Whether it works, the probe says.
    ///
    /// # Errors
    /// `Unavailable` when there is none.
    pub(super) fn find(options: &GvisorOptions) -> Result<Self> {
        if let Some(path) = named(options) {
            return if is_program(&path) {
                Ok(Self { path, platform: options.platform })
            } else {
                Err(missing("what was named as runsc is no program that can be executed").with("path", path.display()))
            };
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<PathBuf> = env::split_paths(&path).chain(FOLDERS.iter().map(PathBuf::from)).collect();
        let found = folders.into_iter().map(|folder| folder.join("runsc")).find(|path| path.is_absolute() && is_program(path));
        found.map(|path| Self { path, platform: options.platform }).ok_or_else(|| missing("there is no runsc on PATH"))
    }

    /// Its version, as it says it. Blocks for some milliseconds.
    ///
    /// # Errors
    /// `Unavailable` when it does not say one.
    pub(super) fn version(&self) -> Result<Version> {
        let mut command = Command::new(&self.path);
        command.arg("--version");
        let said = ask(OPERATION, command, "", QUICK)?;
        Version::parse(&said.text).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, OPERATION, "runsc does not say its version")
                .with("path", self.path.display())
                .with_source(io::Error::other(said.text))
        })
    }

    /// What every command of it begins with, its name included.
    pub(super) fn arguments(&self) -> Vec<String> {
        let platform = format!("--platform={}", self.platform.name());
        let root = format!("--root={STATE}");
        // The agent's socket is made inside and dialled from outside. The writable layer is ours, so the sentry needs no overlay of its own,
        // and the control groups as well.
        ["runsc", &root, "--network=none", "--host-uds=create", "--overlay2=none", "--ignore-cgroups", &platform]
            .map(str::to_owned)
            .to_vec()
    }

    /// Opened, to be executed where its path leads nowhere.
    ///
    /// # Errors
    /// Of the kernel.
    pub(super) fn open(&self) -> Result<OwnedFd> {
        openat(CWD, &self.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(io::Error::from)
            .context(OPERATION, || format!("cannot open {}", self.path.display()))
    }

    /// Runs a command of it inside the namespaces of a sandbox's first process, which is where the sandbox's state is, as that one's root;
    /// `folder` is open there as `/proc/self/fd/N` with the number that `arguments` is given.
    ///
    /// # Errors
    /// `TimedOut` (the command is ended), or of the kernel. What the command itself says of failure is in [`Said`].
    pub(super) fn ask(
        &self,
        first: &OwnedFd,
        folder: Option<&OwnedFd>,
        arguments: impl FnOnce(Option<i32>) -> Vec<String>,
        patience: Duration,
    ) -> Result<Said> {
        let program = self.open()?;
        let folder = folder.map(OwnedFd::try_clone).transpose().context(OPERATION, || "cannot keep a folder".to_owned())?;
        let mut command = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()));
        let all = self.arguments();
        command.arg0("runsc").args(&all[1..]).args(arguments(folder.as_ref().map(AsRawFd::as_raw_fd))).env_clear();
        let (first, kept) = (first.as_raw_fd(), folder.as_ref().map(AsRawFd::as_raw_fd));
        // SAFETY: between fork and exec it makes system calls only, with numbers.
        unsafe {
            command.pre_exec(move || enter(first, kept));
        }
        ask(OPERATION, command, "", patience)
    }
}

/// Enters the user and mount namespaces of a process as their root, and lets a descriptor through to the program.
fn enter(process: i32, kept: Option<i32>) -> io::Result<()> {
    let call = |number, arguments: [usize; 3]| {
        // SAFETY: all arguments are numbers.
        unsafe { syscall::syscall(number, arguments) }
    };
    let (process, namespaces) = (number(process), (libc::CLONE_NEWUSER | libc::CLONE_NEWNS) as usize);
    call(libc::SYS_setns, [process, namespaces, 0])?;
    // Refused in a user namespace with one id, which has no groups to leave.
    let _ = call(libc::SYS_setgroups, [0; 3]);
    call(libc::SYS_setresgid, [0; 3])?;
    call(libc::SYS_setresuid, [0; 3])?;
    if let Some(kept) = kept {
        call(libc::SYS_fcntl, [number(kept), libc::F_SETFD as usize, 0])?;
    }
    Ok(())
}

#[expect(clippy::cast_sign_loss, reason = "an open descriptor is not negative")]
const fn number(descriptor: i32) -> usize {
    descriptor as usize
}

/// Whether there is no `runsc` that is new enough where one is looked for; where one was named, that one counts. Blocks for some milliseconds.
pub fn lacks_runsc(options: &GvisorOptions) -> bool {
    named(options).is_none() && Engine::find(options).and_then(|engine| engine.version()?.require()).is_err()
}

fn named(options: &GvisorOptions) -> Option<PathBuf> {
    options.runsc.clone().or_else(|| env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from))
}

fn is_program(path: &Path) -> bool {
    path.is_file() && accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

fn missing(message: &str) -> Error {
    Error::new(ErrorKind::Unavailable, OPERATION, message).with_hint(how_to_get(&Distribution::here()))
}

/// How a `runsc` that is new enough is got. Debian has packages since its release 12, there in the backports, which `sandbar setup` takes it from.
pub(super) fn how_to_get(distribution: &Distribution) -> String {
    // What has no number is the next release.
    let is_packaged =
        distribution.id == "debian" && distribution.version.parse::<u32>().map_or(distribution.version.is_empty(), |release| release >= 12);
    let get = if is_packaged {
        "sandbar setup gvisor gets it"
    } else {
        "get gVisor's own (https://gvisor.dev/docs/user_guide/install) and put it on PATH"
    };
    format!("{get}, or name it: RUNSC_PATH")
}

/// What a file holds of text, from its beginning.
pub(super) fn read_back(file: &OwnedFd) -> String {
    let mut text = vec![0; 64 << 10];
    let read = file.try_clone().map(File::from).and_then(|file| std::os::unix::fs::FileExt::read_at(&file, &mut text, 0)).unwrap_or(0);
    text.truncate(read);
    String::from_utf8_lossy(&text).trim_end_matches('\0').trim().to_owned()
}
