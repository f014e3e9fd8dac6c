//! System calls without the C library.
//!
//! The child of [`clone_sharing_memory`] has its parent's memory, the C library's thread-local data and locks included, so it may use
//! neither. What it does goes through [`syscall`] alone.
#![expect(unsafe_code, reason = "system calls that rustix does not have, and a child that must not touch the C library")]

use std::{
    arch::asm,
    ffi::{c_long, c_void},
    fmt,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use rustix::io::Errno;

/// A system call with up to six arguments. Sets no `errno`, allocates nothing, takes no lock.
///
/// # Safety
/// As the call itself: every pointer must be valid for what the kernel does with it.
#[inline(always)]
pub(crate) unsafe fn syscall<const N: usize>(number: c_long, arguments: [usize; N]) -> Result<usize, Errno> {
    const { assert!(N <= 6) };
    let mut all = [0; 6];
    let mut index = 0;
    while index < N {
        all[index] = arguments[index];
        index += 1;
    }
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the registers are those of the kernel's calling convention; the caller vouches for the arguments.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") all[0], in("rsi") all[1], in("rdx") all[2],
            in("r10") all[3], in("r8") all[4], in("r9") all[5], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the registers are those of the kernel's calling convention; the caller vouches for the arguments.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") all[0] => result, in("x1") all[1], in("x2") all[2],
            in("x3") all[3], in("x4") all[4], in("x5") all[5], options(nostack));
    }
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "the kernel answers -4095 to -1 for an error")]
    if (-4095..0).contains(&result) { Err(Errno::from_raw_os_error(-result as i32)) } else { Ok(result as usize) }
}

/// What a child does, on its own stack, until it executes a program or ends.
pub(crate) type ChildMain = extern "C" fn(*const c_void) -> !;

/// `clone3` of a child that shares this process's memory (so that no page table is copied, however large this process is), with a
/// stack of its own and every signal handler reset. Returns the child's process id.
///
/// # Safety
/// `main` may use nothing but [`syscall`] and memory that nobody changes meanwhile. `stack` and what `data` points to must stay until
/// the child has executed a program or ended. `arguments` must not ask for a thread.
pub(crate) unsafe fn clone_sharing_memory(
    mut arguments: libc::clone_args,
    stack: &mut [MaybeUninit<u8>],
    main: ChildMain,
    data: *const c_void,
) -> Result<u32, Errno> {
    const CLEAR_HANDLERS: u64 = 0x1_0000_0000;
    arguments.flags |= libc::CLONE_VM as u64 | CLEAR_HANDLERS;
    let base = stack.as_mut_ptr() as usize;
    let bottom = base.next_multiple_of(16);
    arguments.stack = bottom as u64;
    arguments.stack_size = ((base + stack.len() - bottom) & !15) as u64;
    let result: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: in the parent this is a plain system call. The child begins with the new stack pointer, takes two registers that the
    // kernel keeps and never comes back.
    unsafe {
        asm!("syscall", "test rax, rax", "jnz 2f", "xor ebp, ebp", "mov rdi, r8", "call r9", "ud2", "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result, in("rdi") &raw const arguments, in("rsi") size_of::<libc::clone_args>(),
            in("r8") data, in("r9") main, lateout("rcx") _, lateout("r11") _);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!("svc 0", "cbnz x0, 2f", "mov x29, xzr", "mov x30, xzr", "mov x0, x9", "blr x10", "brk #1", "2:",
            in("x8") libc::SYS_clone3, inlateout("x0") &raw const arguments => result, in("x1") size_of::<libc::clone_args>(),
            in("x9") data, in("x10") main);
    }
    #[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a process id, or -4095 to -1 for an error")]
    if result < 0 { Err(Errno::from_raw_os_error(-result as i32)) } else { Ok(result as u32) }
}

/// `struct mount_attr`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct MountAttributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
    pub(crate) user_namespace: u64,
}

/// `mount_setattr` on the mount that a descriptor refers to, and with `recursive` on all beneath it.
pub(crate) fn mount_setattr(mount: BorrowedFd<'_>, attributes: &MountAttributes, recursive: bool) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let size = size_of::<MountAttributes>();
    // SAFETY: the path is an empty C string, the attributes are a whole `struct mount_attr`.
    unsafe { syscall(libc::SYS_mount_setattr, [fd(mount), c"".as_ptr() as usize, flags as usize, &raw const *attributes as usize, size]) }
        .map(drop)
}

/// Takes what a process left when it has ended; `None` while it runs. Also for children that announce their end by no signal.
///
/// # Errors
/// `CHILD` when it is not this process's child.
pub(crate) fn reap(process: BorrowedFd<'_>) -> Result<Option<Ended>, Errno> {
    // SAFETY: all zeroes is a valid `siginfo_t`.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::__WALL;
    // SAFETY: the descriptor is open, the structure is there to be written.
    unsafe { syscall(libc::SYS_waitid, [libc::P_PIDFD as usize, fd(process), &raw mut info as usize, options as usize, 0]) }?;
    // SAFETY: `waitid` has filled these fields, or left the zeroes.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then_some(if info.si_code == libc::CLD_EXITED { Ended::Exited(status) } else { Ended::Signalled(status) }))
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

impl fmt::Display for Ended {
    /// Goes on after the name of what ended.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Signalled(signal) => write!(f, "was ended by signal {signal}"),
        }
    }
}

/// Blocks every signal for the calling thread.
pub(crate) fn block_signals() {
    let all = u64::MAX;
    // SAFETY: the kernel's signal set has eight bytes.
    let _ = unsafe { syscall(libc::SYS_rt_sigprocmask, [libc::SIG_BLOCK as usize, &raw const all as usize, 0, 8]) };
}

/// A descriptor that the kernel has just made for us.
///
/// # Safety
/// Nobody else may own it.
pub(crate) unsafe fn own(raw: i32) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

#[expect(clippy::cast_sign_loss, reason = "an open descriptor is not negative")]
fn fd(descriptor: BorrowedFd<'_>) -> usize {
    descriptor.as_raw_fd() as usize
}

/// The version of Landlock's interface; 0 without Landlock.
pub(crate) fn landlock_version() -> u32 {
    const VERSION: usize = 1;
    // SAFETY: asked for its version, the call takes no pointer.
    unsafe { syscall(libc::SYS_landlock_create_ruleset, [0, 0, VERSION]) }.ok().and_then(|version| version.try_into().ok()).unwrap_or(0)
}

/// Does something with files as another user, with all capabilities that this thread may have.
///
/// # Errors
/// Of the kernel, or of the work.
pub(crate) fn with_file_owner<T>(uid: u32, gid: u32, work: impl FnOnce() -> std::io::Result<T>) -> std::io::Result<T> {
    let _back = FileOwner;
    set_file_owner(uid, gid);
    // Changing from root to another user takes the capabilities over files out of the effective set.
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets)?;
    work()
}

struct FileOwner;

impl Drop for FileOwner {
    fn drop(&mut self) {
        set_file_owner(0, 0);
    }
}

fn set_file_owner(uid: u32, gid: u32) {
    // SAFETY: both calls take a number and concern this thread alone. They cannot fail in a way that could be told.
    let _ = unsafe { (syscall(libc::SYS_setfsgid, [gid as usize]), syscall(libc::SYS_setfsuid, [uid as usize])) };
}

/// Waits for a child that ends by itself.
pub(crate) fn reap_child(pid: u32) {
    // SAFETY: the pointers may be null.
    while unsafe { syscall(libc::SYS_wait4, [pid as usize, 0, 0, 0]) } == Err(Errno::INTR) {}
}

/// Loop devices.
pub(crate) mod loop_device {
    use std::os::fd::{AsRawFd, BorrowedFd};

    use rustix::io::Errno;

    use super::{fd, syscall};

    const LOOP_CLR_FD: usize = 0x4c01;
    const LOOP_CONFIGURE: usize = 0x4c0a;
    const LOOP_CTL_GET_FREE: usize = 0x4c82;
    /// `LO_FLAGS_AUTOCLEAR`: detached when its last user is gone.
    const AUTOCLEAR: u32 = 4;

    /// `struct loop_config`, with `struct loop_info64` in it.
    #[repr(C)]
    struct LoopConfig {
        file: u32,
        block_size: u32,
        device: u64,
        inode: u64,
        rdevice: u64,
        offset: u64,
        size_limit: u64,
        number: u32,
        encryption: [u32; 2],
        flags: u32,
        names: [u8; 64 + 64 + 32],
        init: [u64; 2],
        reserved: [u64; 8],
    }

    /// The number of a device that has no file behind it (which another may take meanwhile).
    pub(crate) fn free(control: BorrowedFd<'_>) -> Result<usize, Errno> {
        // SAFETY: takes no argument.
        unsafe { syscall(libc::SYS_ioctl, [fd(control), LOOP_CTL_GET_FREE, 0]) }
    }

    /// Puts a file behind a device.
    pub(crate) fn attach(device: BorrowedFd<'_>, file: i32) -> Result<(), Errno> {
        let config = LoopConfig {
            file: file.cast_unsigned(),
            block_size: 4096,
            device: 0,
            inode: 0,
            rdevice: 0,
            offset: 0,
            size_limit: 0,
            number: 0,
            encryption: [0; 2],
            flags: AUTOCLEAR,
            names: [0; 160],
            init: [0; 2],
            reserved: [0; 8],
        };
        // SAFETY: the argument is a whole `struct loop_config`.
        unsafe { syscall(libc::SYS_ioctl, [device.as_raw_fd() as usize, LOOP_CONFIGURE, &raw const config as usize]) }.map(drop)
    }

    /// Takes the file away as soon as nobody uses the device. A device without a file is no error.
    pub(crate) fn detach(device: BorrowedFd<'_>) {
        // SAFETY: takes no argument.
        let _ = unsafe { syscall(libc::SYS_ioctl, [fd(device), LOOP_CLR_FD, 0]) };
    }
}
