//! The folder where the agent's socket is, reached through the mounts of the sandbox's first process.
//!
//! What is in it belongs to the sandbox: nothing is followed.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, openat},
    io::Errno,
};
use tokio::net::UnixStream;

use super::bundle::WIRE;
use crate::machine::{
    process::HostProcess,
    socket::{AGENT_SOCKET, connect_at},
};

/// What tells an agent that has gone quiet to listen again.
const WAKE: &str = "wake";

/// Opens what a process sees at a path, which is not the sandbox's to change.
///
/// # Errors
/// `NotFound` when the process is gone.
pub(super) fn open_of(process: &HostProcess, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let held = process.open()?.ok_or_else(gone)?;
    let found = openat(CWD, format!("/proc/{}/root{path}", process.pid), flags | OFlags::CLOEXEC, Mode::empty());
    // As long as it has not exited, the id was its own while the path was walked.
    if crate::machine::process::wait_for_exit(&held, std::time::Duration::ZERO)? {
        return Err(gone());
    }
    Ok(found?)
}

fn open(process: &HostProcess) -> io::Result<OwnedFd> {
    open_of(process, WIRE, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)
}

/// Connects to the agent.
///
/// # Errors
/// `NotFound` or `ConnectionRefused` when nobody listens.
pub(super) async fn connect(process: &HostProcess) -> io::Result<UnixStream> {
    let folder = open(process)?;
    connect_at(folder.as_fd(), AGENT_SOCKET).await
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
    match openat(&folder, WAKE, flags, Mode::RUSR | Mode::WUSR) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
