//! The process that becomes the agent, from `clone3` until it has.
#![expect(unsafe_code, reason = "clone3")]

use std::{
    ffi::c_void,
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, send, sendmsg,
        socketpair,
    },
    process::{DumpableBehavior, Signal, dumpable_behavior, pidfd_send_signal, set_dumpable_behavior},
};
use sandbar_core::{Context, Error, ErrorKind, Result};

use super::{
    step::{MOST_DESCRIPTORS, Planned, Stopped, end, follow},
    syscall::{Ended, clone_sharing_memory, own, reap},
};
use crate::machine::process::wait_for_exit;

const OPERATION: &str = "sandbox start";
/// The child's stack. It uses a few KiB. Small enough for an allocator to have it at hand.
const STACK: usize = 64 << 10;
/// How long a killed child may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A channel between parent and child: made before the plan, which names the child's end.
pub(crate) struct Channel {
    ours: OwnedFd,
    theirs: OwnedFd,
}

impl Channel {
    /// # Errors
    /// `ResourceExhausted` when there are no descriptors left.
    pub(crate) fn new() -> Result<Self> {
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (ours, theirs) = pair.map_err(io::Error::from).context(OPERATION, || "cannot make a channel to the child".to_owned())?;
        Ok(Self { ours, theirs })
    }

    /// The number of the child's end.
    pub(crate) fn number(&self) -> i32 {
        self.theirs.as_raw_fd()
    }
}

/// A child that follows a plan. Killed when this is dropped before it has come to its end.
pub(crate) struct Child {
    pid: u32,
    process: OwnedFd,
    channel: OwnedFd,
    /// What the child uses until it has executed the agent, or ended.
    used: Option<Box<Used>>,
}

struct Used {
    plan: Vec<Planned>,
    stack: Box<[MaybeUninit<u8>]>,
}

extern "C" fn child_main(plan: *const c_void) -> ! {
    // SAFETY: `start` gives a plan that stays, unchanged, until this process has executed the agent or ended.
    let plan = unsafe { &*plan.cast::<Vec<Planned>>() };
    end(follow(plan))
}

impl Child {
    /// Clones it into a new user namespace and those of `namespaces` (`CLONE_NEW…`), and into a v2 control group.
    ///
    /// # Errors
    /// `Unavailable` where the kernel refuses namespaces to this user.
    pub(crate) fn start(plan: Vec<Planned>, namespaces: i32, channel: Channel, group: Option<BorrowedFd<'_>>) -> Result<Self> {
        let mut used = Box::new(Used { plan, stack: Box::new_uninit_slice(STACK) });
        let mut process = -1_i32;
        // SAFETY: all zeroes is a valid `clone_args`.
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = u64::from((libc::CLONE_NEWUSER | libc::CLONE_PIDFD | namespaces).cast_unsigned());
        if let Some(group) = group {
            arguments.cgroup = number(group);
            arguments.flags |= CLONE_INTO_CGROUP;
        }
        arguments.pidfd = &raw mut process as u64;
        // No signal at its end: it is nobody's business but ours, whatever this program does with its other children.
        arguments.exit_signal = 0;
        let data = (&raw const used.plan).cast::<c_void>();
        // SAFETY: the child only follows the plan, with raw system calls. Plan and stack are kept in `used` until it is seen to have
        // executed the agent or ended; nobody changes them.
        let cloned = unsafe { clone_sharing_memory(arguments, &mut used.stack, child_main, data) };
        let pid = cloned.map_err(cannot_clone)?;
        // SAFETY: the kernel has just made this descriptor, for us.
        let process = unsafe { own(process) };
        Ok(Self { pid, process, channel: channel.ours, used: Some(used) })
    }

    /// Its process id, of this PID namespace. It stays its own as long as this lives.
    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends the descriptors that a step of the plan waits for.
    ///
    /// # Errors
    /// What the child has to say, if it has failed.
    pub(crate) fn send(&mut self, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        let sent = sendmsg(&self.channel, &[IoSlice::new(b"d")], &mut ancillary, SendFlags::NOSIGNAL);
        sent.map(drop).map_err(|errno| self.why_silent(errno))
    }

    /// Lets it execute the agent, and returns when it has (after a rehearsal: when it ends). Gives the process, held.
    ///
    /// # Errors
    /// The step that failed.
    pub(crate) fn release(mut self) -> Result<OwnedFd> {
        send(&self.channel, b"g", SendFlags::NOSIGNAL).map_err(|errno| self.why_silent(errno))?;
        self.hear()?;
        // It has a memory of its own now, or none.
        self.used = None;
        let held = self.process.try_clone().context(OPERATION, || "cannot hold the sandbox's first process".to_owned())?;
        match reap(held.as_fd()).unwrap_or(None) {
            None | Some(Ended::Exited(0)) => Ok(held),
            Some(Ended::Exited(_)) => Err(Error::new(ErrorKind::Internal, OPERATION, "the sandbox's first process gave up")),
            Some(Ended::Signalled(signal)) => {
                Err(Error::new(ErrorKind::Internal, OPERATION, "the sandbox's first process was killed").with("signal", signal))
            }
        }
    }

    /// Waits until the channel ends, which it does by execution.
    fn hear(&mut self) -> Result<()> {
        let mut report = [0_u8; 8];
        let length = loop {
            match recv(&self.channel, &mut report, RecvFlags::empty()) {
                // A child that ended without having read everything: told once, before what it said.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Ok((0, _)) => return Ok(()),
                Ok((length, _)) => break length,
                Err(errno) => return Err(Error::io(OPERATION, "cannot hear the child", errno.into())),
            }
        };
        let [a, b, c, d, e, f, g, h] = report;
        let (index, errno) = (u32::from_ne_bytes([a, b, c, d]), Errno::from_raw_os_error(i32::from_ne_bytes([e, f, g, h])));
        if length == 8 { Err(self.failed(Stopped::Failed(index, errno))) } else { Ok(()) }
    }

    fn why_silent(&mut self, errno: Errno) -> Error {
        match self.hear() {
            Err(error) => error,
            Ok(()) => Error::io(OPERATION, "the sandbox's first process ended early", errno.into()),
        }
    }

    fn failed(&self, stopped: Stopped) -> Error {
        let Stopped::Failed(index, errno) = stopped else {
            return Error::new(ErrorKind::Internal, OPERATION, "the sandbox's first process was abandoned");
        };
        let step = self.used.as_ref().and_then(|used| used.plan.get(index as usize));
        let what = step.map_or_else(|| "come to the end of the plan".to_owned(), |planned| planned.step.to_string());
        let error = Error::new(kind(errno), OPERATION, format!("cannot {what}")).with_source(io::Error::from(errno));
        match step.and_then(|planned| planned.step.hint(errno)) {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let Some(used) = self.used.take() else { return };
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        match wait_for_exit(&self.process, PATIENCE) {
            Ok(true) => drop(reap(self.process.as_fd())),
            // It may still use its stack.
            _ => drop(Box::leak(used)),
        }
    }
}

/// Keeps this process's memory readable for its own user as long as it lives: a child that shares it and changes its ids makes the kernel
/// forbid that. The last of several at the same time puts it back to what it was before the first.
pub(crate) struct StayDumpable(());

/// How many there are, and how it was before the first.
static STAY_DUMPABLE: Mutex<(usize, Option<DumpableBehavior>)> = Mutex::new((0, None));

impl StayDumpable {
    pub(crate) fn begin() -> Self {
        let mut state = STAY_DUMPABLE.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 == 0 {
            state.1 = dumpable_behavior().ok();
        }
        state.0 += 1;
        Self(())
    }
}

impl Drop for StayDumpable {
    fn drop(&mut self) {
        let mut state = STAY_DUMPABLE.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 -= 1;
        if state.0 == 0 && state.1 == Some(DumpableBehavior::Dumpable) && dumpable_behavior().ok() != state.1 {
            let _ = set_dumpable_behavior(DumpableBehavior::Dumpable);
        }
    }
}

/// Of `linux/sched.h`.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[expect(clippy::cast_sign_loss, reason = "an open descriptor is not negative")]
fn number(descriptor: BorrowedFd<'_>) -> u64 {
    descriptor.as_raw_fd() as u64
}

fn kind(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::NOSPC | Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::USERS => ErrorKind::ResourceExhausted,
        Errno::PERM | Errno::ACCESS | Errno::NOSYS | Errno::INVAL | Errno::NODEV | Errno::OPNOTSUPP => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

fn cannot_clone(errno: Errno) -> Error {
    let error = Error::new(kind(errno), OPERATION, "cannot make a process in namespaces of its own").with_source(io::Error::from(errno));
    match errno {
        Errno::PERM => error.with_hint(
            "user namespaces are refused here: a container's seccomp filter, kernel.unprivileged_userns_clone=0, or an AppArmor rule \
             (kernel.apparmor_restrict_unprivileged_userns=1)",
        ),
        Errno::NOSPC | Errno::USERS => {
            error.with_hint("the limits in /proc/sys/user are reached (user.max_user_namespaces, user.max_pid_namespaces)")
        }
        Errno::NOSYS => error.with_hint("clone3 is missing or filtered; sandbar needs Linux 5.12 or later"),
        _ => error,
    }
}
