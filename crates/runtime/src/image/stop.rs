//! Calling off file work that runs in another thread, or in another process.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// A file whose being there says "stop". A flag in memory would not reach a process with other ids.
#[derive(Debug, Clone)]
pub(crate) struct Stop(PathBuf);

impl Stop {
    /// In a folder that nobody else knows; not said yet.
    pub(super) fn within(folder: &Path) -> Self {
        Self(folder.join("stop"))
    }

    /// Says it. On a full disk nobody hears; then the work fails of that.
    pub(crate) fn say(&self) {
        let _ = File::create(&self.0);
    }

    fn check(&self) -> io::Result<()> {
        // Not `Interrupted`, after which readers try again.
        if self.0.exists() { Err(io::Error::other("it was called off")) } else { Ok(()) }
    }
}

/// A stream that breaks when it is called off.
pub(super) struct Stoppable<'a, S> {
    pub(super) stream: S,
    pub(super) stop: &'a Stop,
}

impl<S: Read> Read for Stoppable<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stop.check()?;
        self.stream.read(buffer)
    }
}

impl<S: Write> Write for Stoppable<'_, S> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stop.check()?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
