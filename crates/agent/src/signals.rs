//! Signals: none is handled, those that matter are read from a descriptor.
#![expect(unsafe_code, reason = "signal masks, dispositions, signalfd, and waitid with the process id have no safe wrapper")]

use std::{
    io,
    mem::{self, MaybeUninit},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

use libc::c_int;
use rustix::process::{Pid, Signal};

/// Requests to end, which the agent hears where it is not process 1.
const REQUESTS: [c_int; 4] = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// The signal with this number, real-time ones included.
pub(crate) fn from_number(number: i32) -> Option<Signal> {
    // SAFETY: Linux has signals 1 to 64. Handlers are not installed by this type, so numbers that the C library keeps for itself do
    // no harm.
    (1..=64).contains(&number).then(|| unsafe { Signal::from_raw_unchecked(number) })
}

/// Forgets what the starter of this process ignored or blocked, ignores SIGPIPE, and makes the descriptor that the others are read
/// from.
pub(crate) fn listen() -> io::Result<OwnedFd> {
    // SAFETY: plain system calls on this process's own signal state, before there is a second thread; the set lives on the stack.
    unsafe {
        // The kernel's `struct sigaction`, all zero: the default. The C library would refuse the signals that it keeps for itself, which
        // somebody up the line may have ignored.
        let default = [0_u64; 4];
        for number in 1..=64 {
            // Fails for those that cannot be changed, which need no change.
            libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), ptr::null_mut::<u8>(), 8_usize);
        }
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        let mut set = mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        // Children that ended, too.
        for number in REQUESTS.into_iter().chain([libc::SIGCHLD]) {
            libc::sigaddset(&raw mut set, number);
        }
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Takes one signal from the descriptor.
pub(crate) fn next(signals: impl AsFd) -> io::Result<c_int> {
    let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer is as large as said, and any bytes are a valid `signalfd_siginfo`.
    unsafe {
        match libc::read(signals.as_fd().as_raw_fd(), info.as_mut_ptr().cast(), size) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(c_int::try_from(info.assume_init().ssi_signo).unwrap_or_default()),
        }
    }
}

/// Whether a request to end waits to be read.
pub(crate) fn is_asked_to_end() -> bool {
    // SAFETY: a plain system call that fills a set on the stack.
    unsafe {
        let mut waiting = mem::zeroed::<libc::sigset_t>();
        libc::sigpending(&raw mut waiting) == 0 && REQUESTS.iter().any(|number| libc::sigismember(&raw const waiting, *number) == 1)
    }
}

/// A child that has ended and was not reaped yet.
pub(crate) fn ended_child() -> Option<Pid> {
    // SAFETY: the information is written by the kernel, and `si_pid` is what it holds after waitid; zero when there is none.
    unsafe {
        let mut info = mem::zeroed::<libc::siginfo_t>();
        match libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT) {
            0 => Pid::from_raw(info.si_pid()),
            _ => None,
        }
    }
}

/// Kills every process but this one. Only process 1 of a namespace may: there that is everything inside, and nothing else.
pub(crate) fn kill_all() {
    if rustix::process::getpid().is_init() {
        // SAFETY: a plain system call.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// Whether this process has no child, not even one to be reaped.
pub(crate) fn is_childless() -> bool {
    // SAFETY: as in `ended_child`; nothing is reaped.
    let answer = unsafe {
        let mut info = mem::zeroed::<libc::siginfo_t>();
        libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT)
    };
    answer == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD)
}
