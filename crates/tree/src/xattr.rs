//! Extended attributes of an open file, whichever way it was opened.

use crate::system;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr, getxattr, listxattr, setxattr};
use rustix::io::Errno;

/// `XATTR_LIST_MAX` and `XATTR_SIZE_MAX` of `linux/limits.h`: no list and no value is larger.
const LARGEST: usize = 65536;

/// File capabilities: the one attribute of the `security` namespace that belongs to the contents of a tree.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// In which namespace overlayfs keeps its marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverlayNamespace {
    /// `trusted.overlay.*`: the default of overlayfs; needs `CAP_SYS_ADMIN` in the initial user namespace.
    Trusted,
    /// `user.overlay.*`: for mounts with the option `userxattr`, as rootless ones have.
    User,
}

impl OverlayNamespace {
    /// The attribute that hides what lower layers have below a directory; its value is `y`.
    pub(crate) fn opaque(self) -> &'static [u8] {
        match self {
            Self::Trusted => b"trusted.overlay.opaque",
            Self::User => b"user.overlay.opaque",
        }
    }
}

/// Whether overlayfs would act on the attribute, in either namespace.
pub(crate) fn is_overlay(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// The attributes of one file.
pub(crate) struct Attributes<'file> {
    file: BorrowedFd<'file>,
    /// For an `O_PATH` descriptor, which the `f…xattr` calls refuse.
    path: Option<String>,
}

impl<'file> Attributes<'file> {
    /// Of a file opened for reading or writing.
    pub(crate) fn of(file: &'file impl AsFd) -> Self {
        Self { file: file.as_fd(), path: None }
    }

    /// Of a file held by an `O_PATH` descriptor. `ENOSYS` without procfs.
    pub(crate) fn of_held(file: &'file impl AsFd) -> Result<Self, Errno> {
        let file = file.as_fd();
        Ok(Self { file, path: Some(system::path_to(file)?) })
    }

    /// The names, sorted. A file system without attributes has none.
    pub(crate) fn names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let listed = sized(|buffer| match &self.path {
            Some(path) => listxattr(path.as_str(), buffer),
            None => flistxattr(self.file, buffer),
        });
        let list = match listed {
            Ok(list) => list,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names: Vec<_> = list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(Vec::from).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// A value; `None` if there is no such attribute, or none that may be seen.
    pub(crate) fn value(&self, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
        let read = sized(|buffer| match &self.path {
            Some(path) => getxattr(path.as_str(), name, buffer),
            None => fgetxattr(self.file, name, buffer),
        });
        match read {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM | Errno::ACCESS) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a value, whether or not there was one.
    pub(crate) fn set(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match &self.path {
            Some(path) => setxattr(path.as_str(), name, value, XattrFlags::empty()),
            None => fsetxattr(self.file, name, value, XattrFlags::empty()),
        }
    }
}

/// Reads what fits a small buffer, or else the largest there can be: one call for nearly every file.
fn sized(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 512];
    match read(&mut small) {
        Ok(length) => return Ok(small[..length].to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut large = vec![0; LARGEST];
    let length = read(&mut large)?;
    large.truncate(length);
    Ok(large)
}
