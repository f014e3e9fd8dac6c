//! The two things that procfs means here: the way to a file behind an `O_PATH` descriptor, and a place never to be
//! written to.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::fs::{CWD, FsWord, Mode, OFlags, PROC_SUPER_MAGIC, fstatfs, openat};
use rustix::io::Errno;

/// The directory that names this thread's descriptors. `thread-self`, because threads may have unshared their table.
const DESCRIPTORS: &str = "/proc/thread-self/fd";

/// File systems whose files are knobs of the kernel (`linux/magic.h`). The agent may hold more privilege than the
/// code that planted a link to one of these.
const KNOBS: [FsWord; 12] = [
    PROC_SUPER_MAGIC,
    0x6265_6572,               // sysfs
    0x0027_e0eb,               // cgroup
    0x6367_7270,               // cgroup2
    0x6462_6720,               // debugfs
    0x7472_6163,               // tracefs
    0x7363_6673,               // securityfs
    0xf97c_ff8c_u32 as FsWord, // selinuxfs
    0xde5e_81e4_u32 as FsWord, // efivarfs
    0xcafe_4a11_u32 as FsWord, // bpf
    0x4249_4e4d,               // binfmt_misc
    0x6265_6570,               // configfs
];

/// Whether the file is on a file system of kernel knobs.
pub(crate) fn is_kernel_interface(file: impl AsFd) -> Result<bool, Errno> {
    Ok(KNOBS.contains(&fstatfs(file)?.f_type))
}

/// A path that leads to exactly the file behind this descriptor, for the calls that refuse `O_PATH` descriptors.
///
/// Fails with `ENOSYS` where no genuine procfs is mounted.
pub(crate) fn path_to(file: BorrowedFd<'_>) -> Result<String, Errno> {
    let directory =
        openat(CWD, DESCRIPTORS, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|_| Errno::NOSYS)?;
    if fstatfs(&directory)?.f_type != PROC_SUPER_MAGIC {
        return Err(Errno::NOSYS);
    }
    Ok(format!("{DESCRIPTORS}/{}", file.as_raw_fd()))
}

/// Sets the permission bits of the file behind any descriptor, `O_PATH` included. Never of a symbolic link: those
/// have none, and `EOPNOTSUPP` says so.
pub(crate) fn chmod(file: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    rustix::fs::chmodat(CWD, path_to(file)?, mode, rustix::fs::AtFlags::empty())
}
