use std::{
    fs,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use sandbar_backends::machine::{
    process::{HostProcess, wait_for_exit},
    template::{TemplateRecord, read},
};
use sandbar_core::{Context, Error, ErrorKind, Result};

use crate::TemplateSummary;

pub(crate) use sandbar_backends::{as_layer_owner, gvisor::lacks_runsc, layer_ids};

/// Where the descriptors of this process are listed.
pub(crate) const DESCRIPTORS: &str = "/proc/self/fd";

/// The kernel's name of this boot: another one means that every process, control group and mount of before is gone.
pub(crate) fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path).context("state", || format!("cannot read {path}"))?.trim().to_owned())
}

/// The program that this process is, whatever has its name by now.
pub(crate) fn own_program() -> io::Result<PathBuf> {
    Ok("/proc/self/exe".into())
}

/// A path to a name in an open folder that is short whatever the folder's is: a socket's path has at most 107 bytes (unix(7)), a descriptor's has few.
pub(crate) fn short_path(folder: &File, _path: &Path, name: &str) -> PathBuf {
    Path::new(DESCRIPTORS).join(folder.as_raw_fd().to_string()).join(name)
}

/// The template in a folder, if it is whole.
pub(crate) fn template(folder: &Path, id: String) -> Option<TemplateSummary> {
    let TemplateRecord { provider, parts, bytes, .. } = read(folder).ok()?;
    Some(TemplateSummary { id, provider, bytes, parts })
}

/// Writes what was changed in a folder, and below it, to disk.
pub(crate) fn flush(folder: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::syncfs(folder)?)
}

/// The start time of a process, `/proc/PID/stat` field 22 (proc(5)); `None` if there is no such process or it has ended and is only not yet reaped.
pub(crate) fn start_time(pid: u32) -> Result<Option<u64>> {
    let text = match fs::read(format!("/proc/{pid}/stat")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
            return Ok(None);
        }
        Err(error) => return Err(error).context("state", || format!("cannot read /proc/{pid}/stat")),
    };
    // The name (field 2) may hold spaces and parentheses; the last parenthesis ends it.
    let text = String::from_utf8_lossy(&text).into_owned();
    let mut fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    if matches!(fields.next(), None | Some("Z" | "X" | "x")) {
        return Ok(None);
    }
    Ok(fields.nth(18).and_then(|field| field.parse().ok()))
}

/// Whether a process is on its way out.
pub(crate) fn is_ending(pid: u32, start_time: u64) -> bool {
    HostProcess { pid, start_time }.is_ending()
}

/// Ends a process if it is `this` one, and waits until it is gone. One that is gone already is no error; one that is still there after `patience` is
/// `TimedOut`.
pub(crate) fn kill(pid: Pid, patience: Duration, this: impl FnOnce() -> Result<bool>) -> Result<()> {
    let failed = |what: &'static str, error: Errno| Error::io("keeper", what, error.into()).with("pid", pid.as_raw_nonzero());
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(failed("cannot open the process", error)),
    };
    // The descriptor names whoever has the id now; only then is it worth asking who that is.
    if !this()? {
        return Ok(());
    }
    match pidfd_send_signal(&handle, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(failed("cannot end the process", error)),
    }
    match wait_for_exit(&handle, patience).context("keeper", || "cannot wait for the process's end".to_owned())? {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::TimedOut, "keeper", "the process does not end").with("pid", pid.as_raw_nonzero())),
    }
}
