use std::{ffi::CStr, mem::MaybeUninit, os::fd::OwnedFd};

use rustix::{
    fs::{
        AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RawDir, RenameFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, fstat,
        openat,
    },
    io::Errno,
};

use super::{
    MOST_DATA, attributes,
    attributes::by_descriptor,
    handles::Handles,
    message::{Answer, Body, Request, operation as op},
    nodes::Nodes,
};

type Done = Result<(), Errno>;

/// The version of the protocol: the first minor one with everything that is used here.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;
/// `FUSE_ASYNC_READ`, `FUSE_BIG_WRITES`, `FUSE_AUTO_INVAL_DATA` (what the host has changed is not taken from the guest's cache), `FUSE_PARALLEL_DIROPS`,
/// `FUSE_MAX_PAGES`, `FUSE_HANDLE_KILLPRIV_V2` (the host's kernel takes away what makes a program powerful: the guest's need not ask about it at each write).
const WANTED: u32 = 1 | 1 << 5 | 1 << 12 | 1 << 18 | 1 << 22 | 1 << 28;
const PAGES: u16 = (MOST_DATA / 4096) as u16;
/// Most that one request copies: others wait meanwhile.
const MOST_COPIED: u64 = 8 << 20;
/// Set-user-ID and set-group-ID: files made here belong to users of the host.
const POWERS: u32 = 0o6000;
/// `FUSE_GETATTR_FH`, and of `FATTR_*`: mode, owner, group, size, times, "now", a handle.
const BY_HANDLE: u32 = 1;
const SET_MODE: u32 = 1;
const SET_UID: u32 = 2;
const SET_GID: u32 = 4;
const SET_SIZE: u32 = 8;
const SET_ACCESSED: u32 = 16;
const SET_MODIFIED: u32 = 32;
const SET_BY_HANDLE: u32 = 64;
const ACCESSED_NOW: u32 = 128;
const MODIFIED_NOW: u32 = 256;

/// Serves one volume.
pub(super) struct Server {
    nodes: Nodes,
    handles: Handles,
    read_only: bool,
    /// This process's user and group, unless it is root: files of theirs are root's inside, and what root makes inside is theirs.
    own: Option<(u32, u32)>,
    answer: Answer,
}

impl Server {
    pub(super) fn new(root: OwnedFd, read_only: bool) -> Self {
        let user = rustix::process::geteuid();
        let own = (!user.is_root()).then(|| (user.as_raw(), rustix::process::getegid().as_raw()));
        Self { nodes: Nodes::new(root), handles: Handles::new(), read_only, own, answer: Answer::default() }
    }

    /// Does what a request asks for; the answer, where there is one.
    pub(super) fn serve(&mut self, mut request: Request<'_>) -> Option<&[u8]> {
        let (operation, unique, node) = (request.operation, request.unique, request.node);
        match operation {
            op::FORGET => {
                let often = request.body.u64().unwrap_or(0);
                self.nodes.forget(node, often);
                return None;
            }
            op::BATCH_FORGET => {
                let _ = self.forget_many(&mut request.body);
                return None;
            }
            // Requests are answered one after another: by then it is done.
            op::INTERRUPT => return None,
            _ => {}
        }
        self.answer.begin();
        let changes = matches!(
            operation,
            op::SETATTR
                | op::SYMLINK
                | op::MKNOD
                | op::MKDIR
                | op::UNLINK
                | op::RMDIR
                | op::RENAME
                | op::RENAME2
                | op::LINK
                | op::WRITE
                | op::CREATE
                | op::FALLOCATE
                | op::COPY_FILE_RANGE
                | op::SETXATTR
                | op::REMOVEXATTR
        );
        let done = if changes && self.read_only { Err(Errno::ROFS) } else { self.dispatch(request) };
        Some(self.answer.finish(unique, done))
    }

    fn forget_many(&mut self, body: &mut Body<'_>) -> Done {
        let count = body.u32()?;
        body.u32()?;
        for _ in 0..count {
            let (node, often) = (body.u64()?, body.u64()?);
            self.nodes.forget(node, often);
        }
        Ok(())
    }

    fn dispatch(&mut self, request: Request<'_>) -> Done {
        let Request { operation, node, uid, gid, mut body, .. } = request;
        let body = &mut body;
        let owner = (uid, gid);
        match operation {
            op::INIT => self.begin(body),
            op::LOOKUP => self.entry(node, body.name()?).map(drop),
            op::GETATTR => self.attributes(node, body),
            op::SETATTR => self.change(node, body),
            op::READLINK => {
                let target = rustix::fs::readlinkat(self.nodes.find(node)?, c"", Vec::new())?;
                self.answer.bytes(target.to_bytes());
                Ok(())
            }
            op::SYMLINK => {
                let (name, target) = (body.name()?, body.text()?);
                let folder = self.nodes.find(node)?;
                rustix::fs::symlinkat(target, &folder, name)?;
                self.made(node, &folder, name, owner).map(drop)
            }
            op::MKNOD => {
                let mode = body.u32()?;
                body.u64()?;
                body.u32()?;
                let name = body.name()?;
                let kind = FileType::from_raw_mode(mode);
                // A device of the host is nothing that a guest may name.
                if !matches!(kind, FileType::RegularFile | FileType::Fifo | FileType::Socket) {
                    return Err(Errno::PERM);
                }
                let folder = self.nodes.find(node)?;
                rustix::fs::mknodat(&folder, name, kind, permissions(mode)?, 0)?;
                self.made(node, &folder, name, owner).map(drop)
            }
            op::MKDIR => {
                let mode = body.u32()?;
                body.u32()?;
                let name = body.name()?;
                let folder = self.nodes.find(node)?;
                rustix::fs::mkdirat(&folder, name, permissions(mode)?)?;
                self.made(node, &folder, name, owner).map(drop)
            }
            op::UNLINK | op::RMDIR => {
                let name = body.name()?;
                let flags = if operation == op::RMDIR { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                rustix::fs::unlinkat(self.nodes.find(node)?, name, flags)?;
                self.nodes.remove(node, name);
                Ok(())
            }
            op::RENAME | op::RENAME2 => self.rename(node, body, operation == op::RENAME2),
            op::LINK => {
                let from = body.u64()?;
                let name = body.name()?;
                let (folder, old) = self.nodes.place(from)?;
                let target = self.nodes.find(node)?;
                rustix::fs::linkat(self.nodes.find(folder)?, old, &target, name, AtFlags::empty())?;
                self.entry(node, name).map(drop)
            }
            op::OPEN => {
                let flags = OFlags::from_bits_retain(body.u32()?);
                let file = self.open(node, flags)?;
                self.keep(node, file)
            }
            op::OPENDIR => {
                let folder = self.nodes.find(node)?;
                let opened = openat(folder, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                self.keep(node, opened)
            }
            op::CREATE => self.create(node, body, owner),
            op::READ => {
                let (handle, offset, length) = (body.u64()?, body.u64()?, body.u32()? as usize);
                let file = self.handles.get(handle)?;
                self.answer.fill(length.min(MOST_DATA), |buffer| rustix::io::pread(file, buffer, offset))
            }
            op::WRITE => {
                let (handle, offset, length) = (body.u64()?, body.u64()?, body.u32()?);
                for _ in 0..5 {
                    body.u32()?;
                }
                let written = rustix::io::pwrite(self.handles.get(handle)?, body.data(length)?, offset)?;
                // Not more than was asked for, which is a `u32`.
                self.answer.u32(written as u32).u32(0);
                Ok(())
            }
            op::READDIR => self.list(body),
            op::RELEASE | op::RELEASEDIR => {
                let handle = body.u64()?;
                if let Some(node) = self.handles.close(handle) {
                    self.nodes.closed(node, handle);
                }
                Ok(())
            }
            op::FSYNC | op::FSYNCDIR => {
                let (handle, flags) = (body.u64()?, body.u32()?);
                let file = self.handles.get(handle)?;
                if flags & 1 == 1 { rustix::fs::fdatasync(file) } else { rustix::fs::fsync(file) }
            }
            op::FALLOCATE => {
                let (handle, offset, length, mode) = (body.u64()?, body.u64()?, body.u64()?, body.u32()?);
                let mode = FallocateFlags::from_bits_retain(mode);
                if !(FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE).contains(mode) {
                    return Err(Errno::OPNOTSUPP);
                }
                rustix::fs::fallocate(self.handles.get(handle)?, mode, offset, length)
            }
            op::LSEEK => {
                let (handle, offset, whence) = (body.u64()?, body.u64()?, body.u32()?);
                let to = match whence.cast_signed() {
                    libc::SEEK_DATA => SeekFrom::Data(offset),
                    libc::SEEK_HOLE => SeekFrom::Hole(offset),
                    _ => return Err(Errno::INVAL),
                };
                let found = rustix::fs::seek(self.handles.get(handle)?, to)?;
                self.answer.u64(found);
                Ok(())
            }
            op::COPY_FILE_RANGE => self.copy(body),
            op::SETXATTR => {
                let (length, flags) = (body.u32()?, body.u32()?);
                let name = body.text()?;
                attributes::set(&self.held(node, None)?, name, body.data(length)?, flags)
            }
            op::GETXATTR => {
                let size = body.u32()?;
                body.u32()?;
                attributes::get(&self.held(node, None)?, body.text()?, size, &mut self.answer)
            }
            op::LISTXATTR => {
                let size = body.u32()?;
                attributes::list(&self.held(node, None)?, size, &mut self.answer)
            }
            op::REMOVEXATTR => attributes::remove(&self.held(node, None)?, body.text()?),
            op::STATFS => {
                let stat = rustix::fs::fstatvfs(self.nodes.root())?;
                self.answer.file_system(&stat);
                Ok(())
            }
            op::FLUSH | op::DESTROY => Ok(()),
            // Locks among them: what there is not, the kernel does not ask for again.
            _ => Err(Errno::NOSYS),
        }
    }

    /// Agrees upon what both sides know.
    fn begin(&mut self, body: &mut Body<'_>) -> Done {
        let (major, minor, ahead, offered) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
        if major != MAJOR || minor < MINOR {
            return Err(Errno::PROTO);
        }
        self.answer.u32(MAJOR).u32(MINOR).u32(ahead.min(MOST_DATA as u32)).u32(offered & WANTED);
        // Requests that wait, as the kernel has it by itself; the most that a write carries; times to the nanosecond.
        self.answer.u16(12).u16(9).u32(MOST_DATA as u32).u32(1).u16(PAGES).zeros(34);
        Ok(())
    }

    /// Who a file's owners are inside.
    fn owners(&self, stat: &Stat) -> (u32, u32) {
        match self.own {
            Some((uid, gid)) => (if stat.st_uid == uid { 0 } else { stat.st_uid }, if stat.st_gid == gid { 0 } else { stat.st_gid }),
            None => (stat.st_uid, stat.st_gid),
        }
    }

    /// `struct fuse_entry_out`. Nothing is kept by the guest's kernel without asking again: the host may change it at any time.
    fn entry(&mut self, folder: u64, name: &CStr) -> Result<u64, Errno> {
        let (_, stat) = self.nodes.look(folder, name)?;
        let number = self.nodes.tell(folder, name, &stat)?;
        let owners = self.owners(&stat);
        self.answer.u64(number).zeros(32).attributes(&stat, owners);
        Ok(number)
    }

    /// What was just made gets its owner, and is told.
    fn made(&mut self, node: u64, folder: &OwnedFd, name: &CStr, owner: (u32, u32)) -> Result<u64, Errno> {
        if self.own.is_none() {
            let (uid, gid) = ids(Some(owner.0), Some(owner.1))?;
            rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        self.entry(node, name)
    }

    /// What stands for a node: something that is open of it, since its name may be gone; else what has its name.
    fn held(&self, node: u64, handle: Option<u64>) -> Result<OwnedFd, Errno> {
        let open = handle.or_else(|| self.nodes.handle(node)).and_then(|handle| self.handles.get(handle).ok());
        open.map_or_else(|| self.nodes.find(node), |open| rustix::io::fcntl_dupfd_cloexec(open, 3))
    }

    fn attributes(&mut self, node: u64, body: &mut Body<'_>) -> Done {
        let flags = body.u32()?;
        body.u32()?;
        let handle = body.u64()?;
        let stat = fstat(self.held(node, (flags & BY_HANDLE != 0).then_some(handle))?)?;
        self.tell_attributes(&stat)
    }

    fn tell_attributes(&mut self, stat: &Stat) -> Done {
        let owners = self.owners(stat);
        self.answer.zeros(16).attributes(stat, owners);
        Ok(())
    }

    fn change(&mut self, node: u64, body: &mut Body<'_>) -> Done {
        let what = body.u32()?;
        body.u32()?;
        let (handle, size) = (body.u64()?, body.u64()?);
        body.u64()?;
        let (accessed, modified) = (body.u64()?, body.u64()?);
        body.u64()?;
        let (accessed_ns, modified_ns) = (body.u32()?, body.u32()?);
        body.u32()?;
        let mode = body.u32()?;
        body.u32()?;
        let (uid, gid) = (body.u32()?, body.u32()?);
        let file = self.held(node, (what & SET_BY_HANDLE != 0).then_some(handle))?;
        if what & (SET_UID | SET_GID) != 0 {
            self.give(&file, (what & SET_UID != 0).then_some(uid), (what & SET_GID != 0).then_some(gid))?;
        }
        if what & SET_MODE != 0 {
            let mode = permissions(mode)?;
            if FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::Symlink {
                return Err(Errno::OPNOTSUPP);
            }
            rustix::fs::chmodat(CWD, by_descriptor(&file), mode, AtFlags::empty())?;
        }
        if what & SET_SIZE != 0 {
            rustix::fs::ftruncate(reopen(&file, OFlags::WRONLY)?, size)?;
        }
        if what & (SET_ACCESSED | SET_MODIFIED) != 0 {
            let time = |set: u32, now: u32, seconds: u64, nanoseconds: u32| Timespec {
                tv_sec: seconds.cast_signed(),
                tv_nsec: match (what & set, what & now) {
                    (0, _) => rustix::fs::UTIME_OMIT,
                    (_, 0) => i64::from(nanoseconds),
                    _ => rustix::fs::UTIME_NOW,
                },
            };
            let last_access = time(SET_ACCESSED, ACCESSED_NOW, accessed, accessed_ns);
            let last_modification = time(SET_MODIFIED, MODIFIED_NOW, modified, modified_ns);
            rustix::fs::utimensat(&file, c"", &Timestamps { last_access, last_modification }, AtFlags::EMPTY_PATH)?;
        }
        self.tell_attributes(&fstat(&file)?)
    }

    /// Changes who owns a file. Without root there is nobody else to give it to.
    fn give(&self, file: &OwnedFd, uid: Option<u32>, gid: Option<u32>) -> Done {
        if self.own.is_some() {
            let owners = self.owners(&fstat(file)?);
            let stays = uid.is_none_or(|uid| uid == owners.0) && gid.is_none_or(|gid| gid == owners.1);
            return if stays { Ok(()) } else { Err(Errno::PERM) };
        }
        let (uid, gid) = ids(uid, gid)?;
        rustix::fs::chownat(file, c"", uid, gid, AtFlags::EMPTY_PATH)
    }

    fn rename(&mut self, node: u64, body: &mut Body<'_>, has_flags: bool) -> Done {
        let to = body.u64()?;
        let mut flags = RenameFlags::empty();
        if has_flags {
            flags = RenameFlags::from_bits_retain(body.u32()?);
            body.u32()?;
        }
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags) {
            return Err(Errno::INVAL);
        }
        let (old, new) = (body.name()?, body.name()?);
        rustix::fs::renameat_with(self.nodes.find(node)?, old, self.nodes.find(to)?, new, flags)?;
        self.nodes.rename((node, old), (to, new), flags.contains(RenameFlags::EXCHANGE));
        Ok(())
    }

    /// Opens a node that is a regular file.
    fn open(&self, node: u64, flags: OFlags) -> Result<OwnedFd, Errno> {
        let writes = flags.intersection(OFlags::RWMODE) != OFlags::RDONLY || flags.contains(OFlags::TRUNC);
        if writes && self.read_only {
            return Err(Errno::ROFS);
        }
        reopen(&self.held(node, None)?, flags)
    }

    /// `struct fuse_open_out`.
    fn keep(&mut self, node: u64, file: OwnedFd) -> Done {
        let handle = self.handles.keep(node, file)?;
        self.nodes.opened(node, handle);
        self.answer.u64(handle).u64(0);
        Ok(())
    }

    fn create(&mut self, node: u64, body: &mut Body<'_>, owner: (u32, u32)) -> Done {
        let flags = OFlags::from_bits_retain(body.u32()?);
        let mode = permissions(body.u32()?)?;
        body.u64()?;
        let name = body.name()?;
        let folder = self.nodes.find(node)?;
        let new = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags.intersection(PASSED);
        let (number, created) = match openat(&folder, name, new, mode) {
            Ok(file) => (self.made(node, &folder, name, owner)?, Some(file)),
            // Somebody else was first.
            Err(Errno::EXIST) if !flags.contains(OFlags::EXCL) => (self.entry(node, name)?, None),
            Err(errno) => return Err(errno),
        };
        let file = created.map_or_else(|| self.open(number, flags), Ok)?;
        self.keep(number, file)
    }

    /// Copies within the volume without the guest in between: as much as one request may.
    fn copy(&mut self, body: &mut Body<'_>) -> Done {
        let (source, mut from) = (body.u64()?, body.u64()?);
        let _node = body.u64()?;
        let (target, mut to) = (body.u64()?, body.u64()?);
        let (length, flags) = (body.u64()?, body.u64()?);
        if flags != 0 {
            return Err(Errno::INVAL);
        }
        let (source, target) = (self.handles.get(source)?, self.handles.get(target)?);
        let copied = rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), length.min(MOST_COPIED) as usize)?;
        self.answer.u32(copied as u32).u32(0);
        Ok(())
    }

    /// Entries of a folder, from an offset on, as many as there is room for. Each is `struct fuse_dirent`.
    fn list(&mut self, body: &mut Body<'_>) -> Done {
        let (handle, offset, length) = (body.u64()?, body.u64()?, body.u32()? as usize);
        let most = length.min(MOST_DATA);
        let folder = self.handles.get(handle)?;
        // The kernel takes its own offsets back, whatever they mean.
        rustix::fs::seek(folder, SeekFrom::Start(offset))?;
        let mut buffer = [MaybeUninit::uninit(); 16 << 10];
        let mut entries = RawDir::new(folder, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let padded = name.len().next_multiple_of(8);
            if self.answer.length() + 24 + padded > most {
                break;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => 0,
                known => known.as_raw_mode() >> 12,
            };
            // A name has 255 bytes at most.
            self.answer.u64(entry.ino()).u64(entry.next_entry_cookie()).u32(name.len() as u32).u32(kind);
            self.answer.bytes(name).zeros(padded - name.len());
        }
        Ok(())
    }
}

/// What an open passes on of what the guest asked for.
const PASSED: OFlags = OFlags::RWMODE.union(OFlags::APPEND).union(OFlags::SYNC).union(OFlags::DSYNC);

/// The permissions of a mode, which gives nobody another's rights.
fn permissions(mode: u32) -> Result<Mode, Errno> {
    if mode & POWERS == 0 { Ok(Mode::from_raw_mode(mode & 0o1777)) } else { Err(Errno::PERM) }
}

/// The highest number is nobody's.
fn ids(uid: Option<u32>, gid: Option<u32>) -> Result<(Option<Uid>, Option<Gid>), Errno> {
    if uid == Some(u32::MAX) || gid == Some(u32::MAX) {
        return Err(Errno::INVAL);
    }
    Ok((uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
}

/// Opens a regular file that was found: nothing else, since to open a device or a pipe is to do something already.
fn reopen(file: &OwnedFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    match FileType::from_raw_mode(fstat(file)?.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR),
        _ => return Err(Errno::PERM),
    }
    let flags = flags.intersection(PASSED.union(OFlags::TRUNC)) | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    openat(CWD, by_descriptor(file), flags, Mode::empty())
}
