//! The network namespace: loopback only, made by a process beside the one that becomes the agent.
//!
//! It takes the kernel half a millisecond, as long as all the mounts together. On a machine with more than one processor both go at once.
#![expect(unsafe_code, reason = "clone3, and a child that shares memory")]

use std::{cell::UnsafeCell, ffi::c_void, fmt, mem::MaybeUninit};

use rustix::io::Errno;

use super::{
    step::{HERE, Message, call, close, exit, renumber, text},
    syscall::clone_sharing_memory,
};

/// What the process needs.
pub(crate) struct Network {
    stack: UnsafeCell<Box<[MaybeUninit<u8>]>>,
    /// The number of our end of the channel on which the namespace comes.
    channel: i32,
    /// The number of the descriptor that holds the process.
    process: i32,
}

impl Network {
    /// A few KiB are used.
    const STACK: usize = 32 << 10;

    pub(crate) fn new(channel: i32, process: i32) -> Self {
        Self { stack: UnsafeCell::new(Box::new_uninit_slice(Self::STACK)), channel, process }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("channel", &self.channel).field("process", &self.process).finish_non_exhaustive()
    }
}

/// Starts the process.
pub(crate) fn begin(network: &Network) -> Result<(), Errno> {
    let mut ends = [0_i32; 2];
    let kind = (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as usize;
    call(libc::SYS_socketpair, [libc::AF_UNIX as usize, kind, 0, ends.as_mut_ptr() as usize])?;
    let [ours, theirs] = ends.map(|end| end as usize);
    renumber(ours, network.channel)?;
    let mut process = -1_i32;
    // SAFETY: all zeroes is a valid `clone_args`.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(libc::CLONE_PIDFD.cast_unsigned());
    arguments.pidfd = &raw mut process as u64;
    // SAFETY: this is the only step that uses the stack, and it is taken once.
    let stack = unsafe { &mut *network.stack.get() };
    // SAFETY: the child uses raw system calls and its stack alone. The plan, which holds the stack, stays until this process has
    // executed the agent, which it does not before the child has ended.
    unsafe { clone_sharing_memory(arguments, stack, network_main, theirs as *const c_void) }?;
    close(theirs);
    renumber(process as usize, network.process)
}

extern "C" fn network_main(channel: *const c_void) -> ! {
    let channel = channel as usize;
    if let Err(errno) = make(channel) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "error numbers are small")]
        let number = [errno.raw_os_error() as u8];
        let _ = call(libc::SYS_sendto, [channel, number.as_ptr() as usize, 1, libc::MSG_NOSIGNAL as usize, 0, 0]);
    }
    exit(0)
}

/// Makes the namespace and sends it.
fn make(channel: usize) -> Result<(), Errno> {
    call(libc::SYS_unshare, [libc::CLONE_NEWNET as usize])?;
    loopback_up()?;
    // The host's /proc, which is still there.
    let flags = (libc::O_RDONLY | libc::O_CLOEXEC) as usize;
    let namespace = call(libc::SYS_openat, [HERE, text(c"/proc/self/ns/net"), flags, 0])?;
    let mut control = [0_u64; 3];
    // `struct cmsghdr`: a length of eight bytes, level and type of four; then the descriptor.
    control[0] = size_of::<libc::cmsghdr>() as u64 + 4;
    control[1] = (libc::SOL_SOCKET as u64) | (libc::SCM_RIGHTS as u64) << 32;
    control[2] = namespace as u64;
    let mut byte = 0_u8;
    let mut part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // SAFETY: all zeroes is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
    (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control) as _);
    call(libc::SYS_sendmsg, [channel, &raw const header as usize, libc::MSG_NOSIGNAL as usize]).map(drop)
}

/// Enters the namespace when it is there.
pub(crate) fn join(channel: i32) -> Result<(), Errno> {
    let mut message = Message::default();
    match (message.read(channel)?, message.descriptor(0)) {
        (Some(0), Some(namespace)) => {
            call(libc::SYS_setns, [namespace as usize, libc::CLONE_NEWNET as usize])?;
            close(namespace as usize);
            close(channel as usize);
            Ok(())
        }
        (Some(number), _) => Err(Errno::from_raw_os_error(i32::from(number))),
        (None, _) => Err(Errno::CHILD),
    }
}

/// Waits for the process, which ends by itself.
pub(crate) fn end(process: i32) -> Result<(), Errno> {
    let options = (libc::WEXITED | libc::__WALL) as usize;
    call(libc::SYS_waitid, [libc::P_PIDFD as usize, process as usize, 0, options, 0]).map(drop)
}

/// Sets the loopback device of this process's network namespace up.
pub(crate) fn loopback_up() -> Result<(), Errno> {
    let socket = call(libc::SYS_socket, [libc::AF_INET as usize, (libc::SOCK_DGRAM | libc::SOCK_CLOEXEC) as usize, 0])?;
    // `struct ifreq`: a name of 16 bytes, then a union of 24 of which the flags are the first two.
    let mut request = [0_u8; 40];
    (request[0], request[1]) = (b'l', b'o');
    #[expect(clippy::cast_possible_truncation, reason = "both flags are below 256")]
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    [request[16], request[17]] = flags.to_ne_bytes();
    let result = call(libc::SYS_ioctl, [socket, libc::SIOCSIFFLAGS as usize, request.as_ptr() as usize]);
    close(socket);
    result.map(drop)
}
