//! File data from one descriptor to another, by the cheapest way that both file systems know.

use rustix::fd::BorrowedFd;
use rustix::fs::{SeekFrom, ftruncate, seek};
use rustix::io::{Errno, pread, pwrite};

use crate::system::{copy_file_range, share};

/// Bytes read and written at a time where the kernel cannot copy by itself.
const CHUNK: usize = 128 * 1024;

/// Bytes asked of the kernel in one call; it may do less.
const REQUEST: u64 = 1 << 30;

/// Makes `to`, an empty file, equal to the first `size` bytes of `from`: by sharing blocks, else by copying data in
/// the kernel and leaving holes, else through a buffer. If the source shrinks meanwhile, the rest reads as zeros.
pub(crate) fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> Result<(), Errno> {
    if size == 0 {
        return Ok(());
    }
    if share(to, from).is_ok() {
        // The source may have grown since it was measured; the copy has the size that is reported.
        return ftruncate(to, size);
    }
    let mut copier = Copier { from, to, in_kernel: true };
    let mut position = 0;
    while position < size {
        let Some((start, end)) = extent(from, position, size)? else { break };
        copier.range(start, end)?;
        position = end;
    }
    ftruncate(to, size)
}

/// The next stretch of data at or after a position; `None` if only a hole is left.
fn extent(file: BorrowedFd<'_>, position: u64, size: u64) -> Result<Option<(u64, u64)>, Errno> {
    let start = match seek(file, SeekFrom::Data(position)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // No notion of holes: all is data.
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Some((position, size))),
        Err(error) => return Err(error),
    };
    if start >= size {
        return Ok(None);
    }
    match seek(file, SeekFrom::Hole(start)) {
        // A file system that answers nonsense must not make the loop endless.
        Ok(end) if end > start => Ok(Some((start, end.min(size)))),
        Ok(_) | Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(Some((start, size))),
        // Cut short since: nothing left to copy.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error),
    }
}

struct Copier<'file> {
    from: BorrowedFd<'file>,
    to: BorrowedFd<'file>,
    in_kernel: bool,
}

impl Copier<'_> {
    fn range(&mut self, mut start: u64, end: u64) -> Result<(), Errno> {
        while self.in_kernel && start < end {
            let (mut read_at, mut write_at) = (start, start);
            let length = usize::try_from((end - start).min(REQUEST)).unwrap_or(CHUNK);
            match copy_file_range(self.from, Some(&mut read_at), self.to, Some(&mut write_at), length) {
                // The end came early, or the file system only pretends (some did): reading will tell.
                Ok(0) => break,
                Ok(copied) => start += copied as u64,
                Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    self.in_kernel = false;
                }
                Err(error) => return Err(error),
            }
        }
        self.through_a_buffer(start, end)
    }

    fn through_a_buffer(&self, mut start: u64, end: u64) -> Result<(), Errno> {
        if start >= end {
            return Ok(());
        }
        let mut buffer = vec![0; CHUNK];
        while start < end {
            let length = usize::try_from(end - start).unwrap_or(CHUNK).min(CHUNK);
            let read = match pread(self.from, &mut buffer[..length], start) {
                Err(Errno::INTR) => continue,
                read => read?,
            };
            if read == 0 {
                return Ok(());
            }
            let mut written = 0;
            while written < read {
                match pwrite(self.to, &buffer[written..read], start + written as u64) {
                    Ok(0) => return Err(Errno::IO),
                    Ok(more) => written += more,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
            start += read as u64;
        }
        Ok(())
    }
}
