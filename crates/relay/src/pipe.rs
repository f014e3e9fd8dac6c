use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

use rustix::pipe::{PipeFlags, SpliceFlags};

/// Bytes that one holds: large enough that the cost of a call vanishes, small enough for the processor's cache.
pub(crate) const SIZE: usize = 256 << 10;
/// Most that are kept for the next who has something to pass on.
const KEPT: usize = 16;

static FREE: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

/// What bytes go through from socket to socket. A connection has one only while bytes are on their way, so that idle ones cost no descriptors.
#[derive(Debug)]
pub(crate) struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    /// One that is empty.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(crate) fn take() -> io::Result<Self> {
        if let Some(pipe) = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(pipe);
        }
        let (out, into) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Where that is not allowed, a smaller one does.
        let _ = rustix::pipe::fcntl_setpipe_size(&into, SIZE);
        Ok(Self { out, into })
    }

    /// Gives back one that is empty again.
    pub(crate) fn give_back(self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(self);
        }
    }

    /// Moves what a socket has.
    pub(crate) fn fill(&self, from: impl AsFd, most: usize) -> io::Result<usize> {
        Ok(rustix::pipe::splice(from, None, &self.into, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }

    /// Moves it on.
    pub(crate) fn drain(&self, to: impl AsFd, most: usize) -> io::Result<usize> {
        Ok(rustix::pipe::splice(&self.out, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
    }

    /// Copies from it.
    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.out, buffer)?)
    }
}
