use std::{
    ffi::CStr,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::{
    fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr},
    io::Errno,
};

use super::message::Answer;

/// The only names there are. The others have a meaning for the host's kernel: `security.` gives programs rights and labels, `system.` gives users of the
/// host access, `trusted.` is what overlays keep their books in.
const OURS: &[u8] = b"user.";
/// The longest value, and the longest list of names, that Linux has (`linux/limits.h`).
const MOST: usize = 64 << 10;

type Done = Result<(), Errno>;

fn ours(name: &CStr) -> Done {
    if name.to_bytes().starts_with(OURS) { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}

/// What is held, as a path that nothing can come into the way of: attributes cannot be had by a descriptor that stands for a name alone.
pub(super) fn by_descriptor(file: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// The value of an attribute, where it is no longer than `size`; its length where that is 0.
pub(super) fn get(file: &OwnedFd, name: &CStr, size: u32, answer: &mut Answer) -> Done {
    ours(name)?;
    let mut value = vec![0_u8; MOST];
    let length = getxattr(by_descriptor(file), name, &mut value[..])?;
    tell(&value[..length], size, answer)
}

/// What was asked for, where there is room for it; without any, only how long it is.
fn tell(bytes: &[u8], size: u32, answer: &mut Answer) -> Done {
    if size == 0 {
        answer.u32(bytes.len() as u32).u32(0);
    } else if bytes.len() > size as usize {
        return Err(Errno::RANGE);
    } else {
        answer.bytes(bytes);
    }
    Ok(())
}

/// Sets one: `flags` are those of the call.
pub(super) fn set(file: &OwnedFd, name: &CStr, value: &[u8], flags: u32) -> Done {
    ours(name)?;
    let flags = XattrFlags::from_bits(flags).ok_or(Errno::INVAL)?;
    setxattr(by_descriptor(file), name, value, flags)
}

/// The names that there are, as [`get`] tells a value.
pub(super) fn list(file: &OwnedFd, size: u32, answer: &mut Answer) -> Done {
    let mut all = vec![0_u8; MOST];
    let length = listxattr(by_descriptor(file), &mut all[..])?;
    let names: Vec<u8> =
        all[..length].split_inclusive(|byte| *byte == 0).filter(|name| name.starts_with(OURS)).flatten().copied().collect();
    tell(&names, size, answer)
}

pub(super) fn remove(file: &OwnedFd, name: &CStr) -> Done {
    ours(name)?;
    removexattr(by_descriptor(file), name)
}
