//! On the host: becomes another program when it is told to, and not before. So whoever starts a virtual machine can write down that there is
//! one while nothing runs yet; when it dies before, this ends without a trace.
#![expect(unsafe_code, reason = "exec and the ownership of an inherited descriptor have no safe wrapper")]

use std::{
    ffi::OsString,
    io::{self, Read},
    os::unix::process::CommandExt,
    process::Command,
};

use rustix::process::{Pid, Signal};

/// `launch OWNER PROGRAM ARGUMENT…`: waits for a byte on stdin, and becomes the program. With an owner (a process id, not 0) it is killed when
/// that process is gone.
///
/// # Errors
/// When the byte does not come, or the program cannot be executed.
pub(crate) fn run(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidInput, "launch OWNER PROGRAM ARGUMENT…");
    let owner = arguments.next().and_then(|owner| owner.to_str()?.parse::<i32>().ok()).ok_or_else(malformed)?;
    let program = arguments.next().ok_or_else(malformed)?;
    if let Some(owner) = Pid::from_raw(owner) {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(owner) {
            return Err(io::Error::other("the owner is gone"));
        }
    }
    // No terminal's signal reaches it, and nothing that whoever started this has open is its.
    let _ = rustix::process::setsid();
    // SAFETY: nothing of this process is open there.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_int::MAX, 0) };
    io::stdin().read_exact(&mut [0])?;
    let null = rustix::fs::open(c"/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    // The C library's start-up has not changed the signal mask, but whoever started this may have ignored some.
    // SAFETY: a plain system call.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    Err(Command::new(program).args(arguments).exec())
}
