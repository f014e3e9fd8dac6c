#![expect(unsafe_code, reason = "the C library's functions, without a crate around them")]

use std::{
    ffi::{CString, c_char, c_int, c_long, c_ulong, c_void},
    fs::File,
    io,
    os::fd::{AsRawFd, FromRawFd},
};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn fork() -> c_int;
    fn _exit(code: c_int) -> !;
    fn pause() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn poll(watched: *mut u64, count: c_ulong, timeout: c_int) -> c_int;
    fn getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut u32) -> c_int;
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
    fn getxattr(path: *const c_char, name: *const c_char, value: *mut c_void, size: usize) -> isize;
    fn prctl(option: c_int, ...) -> c_int;
}

/// A system call by its number.
///
/// Attacks pass addresses of live buffers; a call that is refused touches nothing, and one that is not refused is the finding.
pub(crate) fn raw(number: c_long, arguments: [usize; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the arguments are numbers or addresses of buffers that live through the call.
    let result = unsafe { syscall(number, a, b, c, d, e, f) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result as usize) }
}

/// The address of a C string, for [`raw`]. The string must live through the call.
pub(crate) fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

/// A child that waits for a signal; its id.
pub(crate) fn fork_waiting() -> io::Result<i32> {
    // SAFETY: the child calls only functions that are safe after a fork.
    unsafe {
        match fork() {
            -1 => Err(io::Error::last_os_error()),
            0 => loop {
                pause();
            },
            pid => Ok(pid),
        }
    }
}

/// A child that runs `body` and ends with its answer; gives the code.
pub(crate) fn in_child(body: impl FnOnce() -> u8) -> io::Result<i32> {
    // SAFETY: this program has one thread when it is called; the child ends without unwinding into the parent's frames.
    let pid = unsafe { fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let code = body();
            // SAFETY: ends the child.
            unsafe { _exit(c_int::from(code)) }
        }
        pid => {
            let mut status = 0;
            // SAFETY: `status` lives through the call.
            if unsafe { waitpid(pid, &raw mut status, 0) } == -1 {
                return Err(io::Error::last_os_error());
            }
            Ok(if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) })
        }
    }
}

/// Splits into two that both go on.
pub(crate) fn double() -> io::Result<bool> {
    // SAFETY: this program has one thread here.
    match unsafe { fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(pid == 0),
    }
}

/// An `ioctl` with a buffer.
pub(crate) fn control(fd: i32, request: u64, buffer: &mut [u8]) -> io::Result<()> {
    // SAFETY: the buffer is at least as large as the requests that this program uses need.
    let result = unsafe { ioctl(fd, request as c_ulong, buffer.as_mut_ptr()) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `prctl` with numbers.
pub(crate) fn process_control(option: i32, a: usize, b: usize) -> io::Result<i32> {
    // SAFETY: the options that this program uses take numbers.
    let result = unsafe { prctl(option, a, b, 0usize, 0usize) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A descriptor that a call has just given, which closes by itself.
pub(crate) fn owned(descriptor: usize) -> File {
    // SAFETY: the caller has it from the kernel, and nobody else has it.
    unsafe { File::from_raw_fd(descriptor as c_int) }
}

/// Waits until a connection is made or refused.
pub(crate) fn connected(socket: &File, milliseconds: i32) -> io::Result<()> {
    // struct pollfd: the descriptor, POLLOUT, what is so.
    let mut watched = socket.as_raw_fd() as u32 as u64 | 4 << 32;
    // SAFETY: one entry, which lives through the call.
    if unsafe { poll(&raw mut watched, 1, milliseconds) } != 1 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let (mut error, mut length): (c_int, u32) = (0, 4);
    // SAFETY: SOL_SOCKET and SO_ERROR, whose value is an int.
    if unsafe { getsockopt(socket.as_raw_fd(), 1, 4, (&raw mut error).cast(), &raw mut length) } == -1 {
        return Err(io::Error::last_os_error());
    }
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Writes into a mapping of this length that begins there; `false` where that would be outside of it.
pub(crate) fn poke(mapping: usize, length: usize, offset: usize, bytes: &[u8]) -> bool {
    if offset.checked_add(bytes.len()).is_none_or(|end| end > length) {
        return false;
    }
    // SAFETY: the caller has mapped it writable, nothing else of this program knows of it, and what is written is within.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), (mapping as *mut u8).add(offset), bytes.len()) };
    true
}

/// The value of an extended attribute.
pub(crate) fn xattr(path: &str, name: &str) -> io::Result<Vec<u8>> {
    let (path, name) = (text(path), text(name));
    let mut value = vec![0u8; 4096];
    // SAFETY: the strings and the buffer live through the call, and its size is told.
    let size = unsafe { getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    if size < 0 {
        return Err(io::Error::last_os_error());
    }
    value.truncate(size as usize);
    Ok(value)
}
