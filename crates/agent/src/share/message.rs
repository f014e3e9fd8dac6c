//! FUSE on the wire, as `linux/fuse.h` has it. Both sides are this machine's architecture; numbers are in its order.

use std::ffi::CStr;

use rustix::{
    fs::{Stat, StatVfs},
    io::Errno,
};

/// `struct fuse_in_header`.
pub(super) const REQUEST_HEAD: usize = 40;
/// `struct fuse_out_header`.
pub(super) const ANSWER_HEAD: usize = 16;

/// `enum fuse_opcode`, as far as it is answered.
pub(super) mod operation {
    pub(in super::super) const LOOKUP: u32 = 1;
    pub(in super::super) const FORGET: u32 = 2;
    pub(in super::super) const GETATTR: u32 = 3;
    pub(in super::super) const SETATTR: u32 = 4;
    pub(in super::super) const READLINK: u32 = 5;
    pub(in super::super) const SYMLINK: u32 = 6;
    pub(in super::super) const MKNOD: u32 = 8;
    pub(in super::super) const MKDIR: u32 = 9;
    pub(in super::super) const UNLINK: u32 = 10;
    pub(in super::super) const RMDIR: u32 = 11;
    pub(in super::super) const RENAME: u32 = 12;
    pub(in super::super) const LINK: u32 = 13;
    pub(in super::super) const OPEN: u32 = 14;
    pub(in super::super) const READ: u32 = 15;
    pub(in super::super) const WRITE: u32 = 16;
    pub(in super::super) const STATFS: u32 = 17;
    pub(in super::super) const RELEASE: u32 = 18;
    pub(in super::super) const FSYNC: u32 = 20;
    pub(in super::super) const SETXATTR: u32 = 21;
    pub(in super::super) const GETXATTR: u32 = 22;
    pub(in super::super) const LISTXATTR: u32 = 23;
    pub(in super::super) const REMOVEXATTR: u32 = 24;
    pub(in super::super) const FLUSH: u32 = 25;
    pub(in super::super) const INIT: u32 = 26;
    pub(in super::super) const OPENDIR: u32 = 27;
    pub(in super::super) const READDIR: u32 = 28;
    pub(in super::super) const RELEASEDIR: u32 = 29;
    pub(in super::super) const FSYNCDIR: u32 = 30;
    pub(in super::super) const CREATE: u32 = 35;
    pub(in super::super) const INTERRUPT: u32 = 36;
    pub(in super::super) const DESTROY: u32 = 38;
    pub(in super::super) const BATCH_FORGET: u32 = 42;
    pub(in super::super) const FALLOCATE: u32 = 43;
    pub(in super::super) const RENAME2: u32 = 45;
    pub(in super::super) const LSEEK: u32 = 46;
    pub(in super::super) const COPY_FILE_RANGE: u32 = 47;
}

/// One request: its head, and what is left of it.
pub(super) struct Request<'bytes> {
    pub(super) operation: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) body: Body<'bytes>,
}

impl<'bytes> Request<'bytes> {
    /// Reads a whole request; `None` where it is shorter than its head.
    pub(super) fn read(bytes: &'bytes [u8]) -> Option<Self> {
        let mut head = Body(bytes);
        let _length = head.u32().ok()?;
        let operation = head.u32().ok()?;
        let (unique, node) = (head.u64().ok()?, head.u64().ok()?);
        let (uid, gid) = (head.u32().ok()?, head.u32().ok()?);
        let _process_and_extensions = head.u64().ok()?;
        Some(Self { operation, unique, node, uid, gid, body: head })
    }
}

/// What is left of a request. What is shorter than it should be is `INVAL`.
pub(super) struct Body<'bytes>(&'bytes [u8]);

impl<'bytes> Body<'bytes> {
    fn take<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], Errno> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_ne_bytes)
    }

    /// The name of something in a folder: one component, and none of the two that lead elsewhere.
    pub(super) fn name(&mut self) -> Result<&'bytes CStr, Errno> {
        let name = self.text()?;
        match name.to_bytes() {
            b"" | b"." | b".." => Err(Errno::INVAL),
            bytes if bytes.contains(&b'/') => Err(Errno::INVAL),
            bytes if bytes.len() > 255 => Err(Errno::NAMETOOLONG),
            _ => Ok(name),
        }
    }

    /// Any text.
    pub(super) fn text(&mut self) -> Result<&'bytes CStr, Errno> {
        let text = CStr::from_bytes_until_nul(self.0).map_err(|_| Errno::INVAL)?;
        self.0 = &self.0[text.count_bytes() + 1..];
        Ok(text)
    }

    /// Data of this length.
    pub(super) fn data(&mut self, length: u32) -> Result<&'bytes [u8], Errno> {
        self.0.get(..length as usize).ok_or(Errno::INVAL)
    }
}

/// An answer on its way.
#[derive(Default)]
pub(super) struct Answer(Vec<u8>);

impl Answer {
    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// Bytes behind the head.
    pub(super) fn length(&self) -> usize {
        self.0.len().saturating_sub(ANSWER_HEAD)
    }

    /// Makes room for the head of an answer.
    pub(super) fn begin(&mut self) {
        self.0.clear();
        self.zeros(ANSWER_HEAD);
    }

    /// Room for data of this length, which is `filled` with as much as there is.
    pub(super) fn fill(&mut self, length: usize, filled: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Result<(), Errno> {
        let at = self.0.len();
        self.zeros(length);
        let filled = filled(&mut self.0[at..])?;
        self.0.truncate(at + filled.min(length));
        Ok(())
    }

    /// Finishes it, with what came of the request.
    pub(super) fn finish(&mut self, unique: u64, outcome: Result<(), Errno>) -> &[u8] {
        if outcome.is_err() {
            self.begin();
        }
        let error = outcome.err().map_or(0, |errno| -errno.raw_os_error());
        // Never longer than a message.
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[4..8].copy_from_slice(&error.to_ne_bytes());
        self.0[8..16].copy_from_slice(&unique.to_ne_bytes());
        &self.0
    }

    /// `struct fuse_attr`, of a file with these owners inside.
    pub(super) fn attributes(&mut self, stat: &Stat, (uid, gid): (u32, u32)) -> &mut Self {
        // The numbers keep their bits: the kernel on the other side has the same types.
        self.u64(stat.st_ino).u64(stat.st_size as u64).u64(stat.st_blocks as u64);
        self.u64(stat.st_atime as u64).u64(stat.st_mtime as u64).u64(stat.st_ctime as u64);
        self.u32(stat.st_atime_nsec as u32).u32(stat.st_mtime_nsec as u32).u32(stat.st_ctime_nsec as u32);
        self.u32(stat.st_mode).u32(stat.st_nlink as u32).u32(uid).u32(gid);
        // Devices of the host mean nothing inside.
        self.u32(0).u32(stat.st_blksize as u32).u32(0)
    }

    /// `struct fuse_kstatfs`.
    pub(super) fn file_system(&mut self, stat: &StatVfs) {
        self.u64(stat.f_blocks).u64(stat.f_bfree).u64(stat.f_bavail).u64(stat.f_files).u64(stat.f_ffree);
        self.u32(stat.f_bsize as u32).u32(stat.f_namemax as u32).u32(stat.f_frsize as u32).zeros(28);
    }
}
