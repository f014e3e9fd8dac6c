//! The folder where the agent's socket is, reached through the mounts of the sandbox's first process.
//!
//! What is in it belongs to the sandbox: nothing is followed.

use std::{
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::PathBuf,
    time::Duration,
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, openat},
    io::Errno,
};
use sandbar_protocol::WAKE_FILE;
use tokio::net::UnixStream;

use super::bundle::WIRE;
use crate::{
    host::{ids::is_root, syscall::with_file_owner},
    machine::{
        process::{HostProcess, wait_for_exit},
        socket::{AGENT_SOCKET, connect_in_hostile},
    },
};

/// Opens the folder as the process sees it.
///
/// # Errors
/// `NotFound` when the process is gone.
fn open(process: &HostProcess) -> io::Result<OwnedFd> {
    let held = process.open()?.ok_or(io::ErrorKind::NotFound)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = openat(CWD, format!("/proc/{}/root{WIRE}", process.pid), flags, Mode::empty());
    // As long as it has not exited, the id was its own while the path was walked.
    if wait_for_exit(&held, Duration::ZERO)? { Err(io::ErrorKind::NotFound.into()) } else { Ok(found?) }
}

/// Connects to the agent.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when nobody listens.
pub(super) async fn connect(process: &HostProcess) -> io::Result<UnixStream> {
    let held = process.open()?.ok_or(io::ErrorKind::NotFound)?;
    let folder = PathBuf::from(format!("/proc/{}/root{WIRE}", process.pid));
    let connected = connect_in_hostile(&folder, AGENT_SOCKET).await;
    // As long as it has not exited, the id was its own while the path was walked.
    if wait_for_exit(&held, Duration::ZERO)? { Err(io::ErrorKind::NotFound.into()) } else { connected }
}

/// Whether the agent's socket is there.
pub(super) fn is_there(process: &HostProcess) -> bool {
    let found = open(process).and_then(|folder| {
        let socket = openat(&folder, AGENT_SOCKET, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(FileType::from_raw_mode(fstat(&socket)?.st_mode))
    });
    found.is_ok_and(|kind| kind == FileType::Socket)
}

/// Tells a quiet agent to listen again.
///
/// # Errors
/// Of the kernel. That the name is taken is none: then it has been told.
pub(super) fn wake(process: &HostProcess) -> io::Result<()> {
    let folder = open(process)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let make = || match openat(&folder, WAKE_FILE, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(io::Error::from(errno)),
    };
    if !is_root() {
        return make();
    }
    // The file system belongs to the sandbox's user namespace, in which the host's root does not exist.
    let owner = std::fs::metadata(format!("/proc/{}", process.pid))?;
    with_file_owner(owner.uid(), owner.gid(), make)
}
