#![expect(unsafe_code, reason = "setting an interface up has no safe wrapper")]

use std::{
    ffi::CString,
    fs, io,
    os::{fd::AsRawFd, unix::fs::symlink},
};

use rustix::{
    mount::MountFlags,
    net::{AddressFamily, SocketFlags, SocketType},
};

/// Where the sandbox's root is put together.
pub(super) const ROOT: &str = "/root";

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// What is needed to find everything else.
pub(super) fn first() -> Result<(), String> {
    mount("proc", "/proc", "proc", SAFE, "")?;
    mount("sysfs", "/sys", "sysfs", SAFE, "")?;
    mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=755")
}

/// Mounts something on a folder, which is made if it is missing.
pub(super) fn mount(source: &str, at: &str, kind: &str, flags: MountFlags, options: &str) -> Result<(), String> {
    let mounted = || -> io::Result<()> {
        fs::create_dir_all(at)?;
        let options = CString::new(options)?;
        Ok(rustix::mount::mount(source, at, kind, flags, options.as_c_str())?)
    };
    mounted().map_err(|error| format!("cannot mount {source} ({kind}) on {at}: {error}"))
}

/// Makes the sandbox's root the root of this process and of all that will come.
pub(super) fn switch_root() -> Result<(), String> {
    let inside = |path: &str| format!("{ROOT}{path}");
    mount("proc", &inside("/proc"), "proc", SAFE, "")?;
    mount("sysfs", &inside("/sys"), "sysfs", SAFE, "")?;
    mount("devtmpfs", &inside("/dev"), "devtmpfs", MountFlags::NOSUID, "mode=755")?;
    mount("devpts", &inside("/dev/pts"), "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, "newinstance,ptmxmode=0666,mode=620")?;
    mount("tmpfs", &inside("/dev/shm"), "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, "mode=1777")?;
    for (name, target) in
        [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")]
    {
        // An image may bring its own.
        let _ = symlink(target, inside(&format!("/dev/{name}")));
    }
    // Not every kernel has it; then nothing is limited or frozen inside.
    let _ = mount("cgroup2", &inside("/sys/fs/cgroup"), "cgroup2", SAFE, "");
    fs::create_dir_all(inside("/tmp")).map_err(|error| format!("cannot make /tmp: {error}"))?;
    let switch = || -> io::Result<()> {
        std::env::set_current_dir(ROOT)?;
        // A memory file system cannot be pivoted away: the root is moved over it.
        rustix::mount::mount_move(".", "/")?;
        rustix::process::chroot(".")?;
        std::env::set_current_dir("/")
    };
    switch().map_err(|error| format!("cannot enter the root: {error}"))
}

/// Sets the loopback interface up; the kernel gives it its addresses.
pub(super) fn loopback() -> Result<(), String> {
    let up = || -> io::Result<()> {
        let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        // SAFETY: all fields are numbers, of which zero is valid.
        let mut request = unsafe { std::mem::zeroed::<libc::ifreq>() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        // SAFETY: the kernel reads an `ifreq`, which outlives the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    up().map_err(|error| format!("cannot set up the loopback interface: {error}"))
}
