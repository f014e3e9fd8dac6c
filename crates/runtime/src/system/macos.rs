#![expect(unsafe_code, reason = "the kernel's word about a process")]

use std::{
    fs::File,
    io, mem,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use sandbar_backends::options::GvisorOptions;
use sandbar_core::{Context, Error, ErrorKind, Result};

use crate::TemplateSummary;

/// Where the descriptors of this process are listed.
pub(crate) const DESCRIPTORS: &str = "/dev/fd";

/// The kernel's name of this boot: another one means that every process of before is gone.
pub(crate) fn boot_id() -> Result<String> {
    let asked = Command::new("/usr/sbin/sysctl").args(["-n", "kern.bootsessionuuid"]).output();
    let answer = asked.context("state", || "cannot ask the kernel for the name of this boot".to_owned())?;
    Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

/// The program that this process is.
pub(crate) fn own_program() -> io::Result<PathBuf> {
    std::env::current_exe()
}

/// A path to a name in a folder: there are none through descriptors.
pub(crate) fn short_path(_folder: &File, path: &Path, name: &str) -> PathBuf {
    path.join(name)
}

/// There are no templates without machines.
pub(crate) fn template(_folder: &Path, _id: String) -> Option<TemplateSummary> {
    None
}

/// There is nothing for `runsc` to run on.
pub(crate) fn lacks_runsc(_options: &GvisorOptions) -> bool {
    true
}

/// Writes a folder to disk.
pub(crate) fn flush(folder: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::fsync(folder)?)
}

/// The start time of a process in microseconds since 1970; `None` if there is no such process or it has ended.
pub(crate) fn start_time(pid: u32) -> Result<Option<u64>> {
    let mut found = mem::MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = i32::try_from(size_of::<libc::proc_bsdinfo>()).unwrap_or(i32::MAX);
    let pid = i32::try_from(pid).unwrap_or(0);
    // SAFETY: the buffer is as large as it says, and all zeros is a value of it.
    let (got, found) =
        unsafe { (libc::proc_pidinfo(pid, libc::PROC_PIDTBSDINFO, 0, found.as_mut_ptr().cast(), size), found.assume_init()) };
    let ended = found.pbi_status == libc::SZOMB;
    Ok((got == size && !ended).then(|| found.pbi_start_tvsec.saturating_mul(1_000_000).saturating_add(found.pbi_start_tvusec)))
}

/// Nothing tells whether a process is on its way out.
pub(crate) fn is_ending(_pid: u32, _start_time: u64) -> bool {
    false
}

/// Ends a process if it is `this` one, and waits until it is gone. One that is gone already is no error; one that is still there after `patience` is
/// `TimedOut`.
pub(crate) fn kill(pid: Pid, patience: Duration, this: impl FnOnce() -> Result<bool>) -> Result<()> {
    let number = pid.as_raw_nonzero().get().cast_unsigned();
    let begun = start_time(number)?;
    if begun.is_none() || !this()? {
        return Ok(());
    }
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(error) => return Err(Error::io("keeper", "cannot end the process", error.into()).with("pid", pid.as_raw_nonzero())),
    }
    let until = Instant::now() + patience;
    while start_time(number)? == begun {
        if Instant::now() >= until {
            return Err(Error::new(ErrorKind::TimedOut, "keeper", "the process does not end").with("pid", number));
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Layers are for walls, and there are none.
pub(crate) fn layer_ids() -> Result<u32> {
    Ok(1)
}

/// Whatever there is belongs to this user.
pub(crate) fn as_layer_owner<T>(work: impl FnOnce() -> io::Result<T>) -> Result<T> {
    work().context("layer", || "cannot work on a layer".to_owned())
}
