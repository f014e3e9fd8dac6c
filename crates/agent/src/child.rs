//! What a child does between clone and exec: system calls only, with what was prepared before, for it runs in the agent's memory.
#![expect(unsafe_code, reason = "exec and signal dispositions have no safe wrapper; this code runs in a child")]

use std::{
    ffi::{CStr, CString},
    os::fd::BorrowedFd,
    ptr,
};

use libc::{c_char, c_int};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::{DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid},
    thread::CapabilitySet,
};

use crate::{command::Command, guest::Entry};

/// The step at which a child failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Session,
    Streams,
    Limits,
    OomScore,
    Capabilities,
    Identity,
    Privileges,
    Workdir,
    Exec,
    /// The program is there; what it names as its interpreter is not.
    Interpreter,
}

/// What every child gets, whatever the command.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) open_files: Rlimit,
    pub(crate) processes: Option<Rlimit>,
    pub(crate) oom_score_adj: Option<Vec<u8>>,
    /// Capabilities to take out of the bounding set.
    pub(crate) unbound: Vec<CapabilitySet>,
    /// Those that may stay inheritable; `None` leaves the sets alone.
    pub(crate) kept: Option<CapabilitySet>,
    /// Whether the kernel kills it when the agent dies: as process 1 of a namespace that is so anyway.
    pub(crate) dies_with_agent: bool,
    /// A guest's control group, and its limit of processes.
    pub(crate) group: Option<Entry>,
}

/// The descriptors that become 0, 1 and 2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Streams<'fd> {
    pub(crate) stdin: BorrowedFd<'fd>,
    pub(crate) stdout: BorrowedFd<'fd>,
    pub(crate) stderr: BorrowedFd<'fd>,
    pub(crate) terminal: bool,
}

/// Pointers for exec, made before there is a child, which must not allocate.
#[derive(Debug)]
pub(crate) struct Image<'command> {
    command: &'command Command,
    arguments: Vec<*const c_char>,
    /// `/bin/sh PATH ARGUMENTS…`, the path to be filled in.
    script: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
    switch: Switch,
}

/// How a child becomes its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    /// It is that user already; groups left over from whoever started the agent are dropped as far as the kernel lets it.
    Stay,
    /// It must become another.
    Become,
}

impl<'command> Image<'command> {
    pub(crate) fn new(command: &'command Command) -> Self {
        let pointers = |strings: &[CString]| strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>();
        let arguments = pointers(&command.arguments);
        let script = [c"/bin/sh".as_ptr(), ptr::null()].into_iter().chain(arguments.iter().copied().skip(1)).collect();
        let user = &command.user;
        let is_own = user.uid == rustix::process::getuid().as_raw() && user.gid == rustix::process::getgid().as_raw();
        Self {
            arguments,
            script,
            environment: pointers(&command.environment),
            uid: Uid::from_raw(user.uid),
            gid: Gid::from_raw(user.gid),
            groups: user.groups.iter().copied().map(Gid::from_raw).collect(),
            switch: if is_own { Switch::Stay } else { Switch::Become },
            command,
        }
    }
}

/// Becomes the command. Returns only with the reason why it could not.
///
/// # Safety
/// Must be called in a child that is thrown away afterwards. It allocates nothing, takes no lock, and does not panic: the memory may be
/// borrowed.
pub(crate) unsafe fn become_command(image: &mut Image<'_>, rules: &Rules, streams: Streams<'_>) -> (Step, Errno) {
    if let Err(failed) = prepare(image, rules, streams) {
        return failed;
    }
    // SAFETY: plain system calls on this process's own signal state; the set lives on the stack.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        // Every descriptor of the agent is close-on-exec, but the agent goes on a moment before the kernel has closed them all at exec: a file
        // that a thread was writing would still be busy. This may be missing in old kernels.
        libc::syscall(libc::SYS_close_range, 3, c_int::MAX, 0);
    }
    let mut denied = None;
    for path in &image.command.candidates {
        match execute(path, image.arguments.as_ptr(), image.environment.as_ptr()) {
            Errno::NOENT | Errno::NOTDIR => {
                if rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok() {
                    return (Step::Interpreter, Errno::NOENT);
                }
            }
            Errno::NOEXEC => {
                // As execvp: a text without `#!` is the shell's. As bash: what has a NUL at its begin is no text.
                if is_binary(path) {
                    return (Step::Exec, Errno::NOEXEC);
                }
                image.script[1] = path.as_ptr();
                return (Step::Exec, execute(c"/bin/sh", image.script.as_ptr(), image.environment.as_ptr()));
            }
            errno @ Errno::ACCESS => denied = Some(errno),
            errno => return (Step::Exec, errno),
        }
    }
    (Step::Exec, denied.unwrap_or(Errno::NOENT))
}

/// Whether a file's first bytes, as many as bash looks at, cannot be a script's.
fn is_binary(path: &CStr) -> bool {
    let mut begin = [1; 80];
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else { return false };
    rustix::io::read(file, &mut begin).is_ok_and(|length| begin[..length].contains(&0))
}

fn execute(path: &CStr, arguments: *const *const c_char, environment: *const *const c_char) -> Errno {
    // SAFETY: both arrays end with a null pointer and point to strings that live as long as the command.
    unsafe { libc::execve(path.as_ptr(), arguments, environment) };
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::NOENT, Errno::from_raw_os_error)
}

fn prepare(image: &Image<'_>, rules: &Rules, streams: Streams<'_>) -> Result<(), (Step, Errno)> {
    let at = |step: Step| move |errno: Errno| (step, errno);
    rustix::process::setsid().map_err(at(Step::Session))?;
    if streams.terminal {
        rustix::process::ioctl_tiocsctty(streams.stdin).map_err(at(Step::Session))?;
    }
    rustix::stdio::dup2_stdin(streams.stdin).map_err(at(Step::Streams))?;
    rustix::stdio::dup2_stdout(streams.stdout).map_err(at(Step::Streams))?;
    rustix::stdio::dup2_stderr(streams.stderr).map_err(at(Step::Streams))?;
    if let Some(group) = &rules.group {
        group.enter().map_err(at(Step::Limits))?;
    }
    rustix::process::setrlimit(Resource::Nofile, rules.open_files).map_err(at(Step::Limits))?;
    if let Some(processes) = rules.processes {
        rustix::process::setrlimit(Resource::Nproc, processes).map_err(at(Step::Limits))?;
    }
    if let Some(score) = &rules.oom_score_adj {
        raise_oom_score(score).map_err(at(Step::OomScore))?;
    }
    for capability in &rules.unbound {
        rustix::thread::remove_capability_from_bounding_set(*capability).map_err(at(Step::Capabilities))?;
    }
    become_user(image).map_err(at(Step::Identity))?;
    // Becoming another user may have changed that, and the memory is still the agent's.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(at(Step::Identity))?;
    if let Some(kept) = rules.kept {
        let _ = rustix::thread::clear_ambient_capability_set();
        let mut sets = rustix::thread::capabilities(None).map_err(at(Step::Capabilities))?;
        sets.inheritable &= kept;
        rustix::thread::set_capabilities(None, sets).map_err(at(Step::Capabilities))?;
    }
    rustix::thread::set_no_new_privs(true).map_err(at(Step::Privileges))?;
    if rules.dies_with_agent {
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    }
    match rustix::process::chdir(&*image.command.workdir) {
        Err(_) if image.command.workdir_optional => rustix::process::chdir(c"/").map_err(at(Step::Workdir)),
        other => other.map_err(at(Step::Workdir)),
    }
}

fn raise_oom_score(score: &[u8]) -> Result<(), Errno> {
    use rustix::fs::{Mode, OFlags};
    let written = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .and_then(|file| rustix::io::write(file, score));
    match written {
        // Without procfs, or where the score is higher already and may not be lowered, the child is no worse off.
        Err(Errno::NOENT | Errno::ACCESS | Errno::PERM | Errno::ROFS) | Ok(_) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn become_user(image: &Image<'_>) -> Result<(), Errno> {
    let groups = rustix::thread::set_thread_groups(&image.groups);
    if image.switch == Switch::Stay {
        // Not allowed without privilege, or in a user namespace of one id: then there is nothing to gain or lose.
        return Ok(());
    }
    groups?;
    rustix::thread::set_thread_res_gid(image.gid, image.gid, image.gid)?;
    rustix::thread::set_thread_res_uid(image.uid, image.uid, image.uid)
}
