//! Starts the agent: one `clone3`, and in the child nothing but system calls until `execve`.
#![expect(
    unsafe_code,
    reason = "starting a process in a control group with a descriptor to hold it by needs clone3, and what the child does is system calls"
)]

use std::{
    ffi::{CString, c_char, c_int},
    fs::File,
    io::{self, Read},
    mem,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    io::fcntl_dupfd_cloexec,
    pipe::{PipeFlags, pipe_with},
    process::{WaitId, WaitIdOptions, waitid},
};
use sandbar_protocol::{CONFIG_FD, LISTEN_FD};

// `linux/sched.h`. The libc crate has the last two as `int`, which they do not fit.
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Our descriptors for the child lie above those that it shall have, so that moving them down overwrites none.
const ABOVE: RawFd = 16;

/// What the child is to be.
pub(super) struct Spawn {
    /// The agent.
    pub(super) program: CString,
    /// Its working directory.
    pub(super) folder: CString,
    /// The group that it is born in.
    pub(super) cgroup: Option<OwnedFd>,
    /// The reading end of the pipe that its configuration comes through.
    pub(super) config: OwnedFd,
    /// Its listening socket.
    pub(super) listener: OwnedFd,
}

/// A child that executes the agent, which waits for its configuration.
pub(super) struct Spawned {
    pub(super) pid: u32,
    pub(super) held: OwnedFd,
}

impl Spawn {
    /// Starts it, and returns when the agent was executed.
    ///
    /// # Errors
    /// The kernel's, whichever step it was; nothing is left then.
    pub(super) fn spawn(&self) -> io::Result<Spawned> {
        let null = openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let (failure, told) = pipe_with(PipeFlags::CLOEXEC)?;
        let null = fcntl_dupfd_cloexec(null, ABOVE)?;
        let told = fcntl_dupfd_cloexec(told, ABOVE)?;
        let config = fcntl_dupfd_cloexec(&self.config, ABOVE)?;
        let listener = fcntl_dupfd_cloexec(&self.listener, ABOVE)?;
        let moves = [
            (null.as_raw_fd(), libc::STDIN_FILENO),
            (null.as_raw_fd(), libc::STDOUT_FILENO),
            (null.as_raw_fd(), libc::STDERR_FILENO),
            (config.as_raw_fd(), CONFIG_FD),
            (listener.as_raw_fd(), LISTEN_FD),
        ];
        let spawned = self.clone_child(&moves, told.as_raw_fd())?;
        drop((null, told, config, listener));
        let mut errno = [0; mem::size_of::<c_int>()];
        match File::from(failure).read_exact(&mut errno) {
            // Closed by the execution, with nothing said.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(spawned),
            outcome => {
                waitid(WaitId::PidFd(spawned.held.as_fd()), WaitIdOptions::EXITED)?;
                Err(outcome.err().unwrap_or_else(|| io::Error::from_raw_os_error(c_int::from_ne_bytes(errno))))
            }
        }
    }

    fn clone_child(&self, moves: &[(RawFd, RawFd)], told: RawFd) -> io::Result<Spawned> {
        let argv: [*const c_char; 2] = [c"sandbar-agent".as_ptr(), ptr::null()];
        let environment: [*const c_char; 1] = [ptr::null()];
        let mut pidfd: c_int = -1;
        // SAFETY: all fields are numbers, of which zero is "not used".
        let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
        arguments.flags = CLONE_PIDFD | CLONE_CLEAR_SIGHAND;
        arguments.exit_signal = libc::SIGCHLD as u64;
        arguments.pidfd = ptr::from_mut(&mut pidfd) as u64;
        if let Some(cgroup) = &self.cgroup {
            arguments.flags |= CLONE_INTO_CGROUP;
            arguments.cgroup = cgroup.as_raw_fd() as u64;
        }
        // SAFETY: without CLONE_VM the child has its own copy of the memory, as after fork. It only makes system calls on data that was
        // prepared above, until it executes the agent or exits: it neither allocates nor takes a lock that another thread may have held.
        let pid = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut arguments), mem::size_of::<libc::clone_args>()) };
        if pid == 0 {
            // SAFETY: this is the child, and the pointers are to the arrays above, which end with a null pointer.
            unsafe { self.run_child(moves, told, argv.as_ptr(), environment.as_ptr()) }
        }
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        let held = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Spawned { pid: u32::try_from(pid).map_err(io::Error::other)?, held })
    }

    /// # Safety
    /// Only in a child that `clone3` just made; `argv` and `environment` end with a null pointer.
    unsafe fn run_child(&self, moves: &[(RawFd, RawFd)], told: RawFd, argv: *const *const c_char, environment: *const *const c_char) -> ! {
        // SAFETY: system calls on valid descriptors and strings; `sigemptyset` and `signal` touch no memory but their argument.
        unsafe {
            let mut none: libc::sigset_t = mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
            // Programs in Rust ignore it, which is inherited through an execution.
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            let mut fine = libc::setsid() >= 0;
            for (from, to) in moves {
                fine = fine && libc::dup2(*from, *to) >= 0;
            }
            // Of what the embedding program opened without the flag, nothing is inherited. A kernel before 5.11 leaves it at that.
            libc::syscall(libc::SYS_close_range, LISTEN_FD + 1, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC);
            libc::umask(0o022);
            fine = fine && libc::chdir(self.folder.as_ptr()) == 0;
            if fine {
                libc::execve(self.program.as_ptr(), argv, environment);
            }
            let errno = (*libc::__errno_location()).to_ne_bytes();
            libc::write(told, errno.as_ptr().cast(), errno.len());
            libc::_exit(127)
        }
    }
}
