use std::{
    io::{self, ErrorKind},
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::FileType,
};
use sandbar_core::OutputKind;
use tokio::sync::{mpsc, oneshot};

/// A pipe that polls as writable takes this much without blocking: `pipe(7)`, PIPE_BUF.
const PIPE_BUF: usize = 4096;
/// Pieces waiting for the writer; each is at most one frame of the agent's.
const QUEUE: usize = 4;

/// A command's output on its way to our own standard output and standard error, in the order it came.
///
/// A write may block for ever (a pager that waits, a terminal after Ctrl-S) and must not keep signals from being heard, so it
/// is made by a thread; except where it is known not to block, which spares short commands the thread.
pub(crate) struct Relay {
    direct: [Direct; 2],
    writer: Option<Writer>,
}

/// How much may be written at once without a thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direct {
    Always,
    IfRoom,
    Never,
}

struct Writer {
    queue: mpsc::Sender<Piece>,
    waiting: Arc<AtomicUsize>,
    failure: Arc<Mutex<Option<io::Error>>>,
}

enum Piece {
    Data(OutputKind, Bytes),
    Flush(oneshot::Sender<()>),
}

impl Relay {
    /// A relay to this process's own standard output and standard error.
    pub(crate) fn new() -> Self {
        Self { direct: [OutputKind::Stdout, OutputKind::Stderr].map(direct), writer: None }
    }

    /// Writes, or queues; waits while the queue is full.
    ///
    /// # Errors
    /// The first failure of this or an earlier write.
    pub(crate) async fn write(&mut self, kind: OutputKind, data: Bytes) -> io::Result<()> {
        let idle = self.writer.as_ref().is_none_or(|writer| writer.waiting.load(Ordering::Acquire) == 0);
        if idle && self.write_now(kind, &data)? {
            return Ok(());
        }
        let writer = match &self.writer {
            Some(writer) => writer,
            None => self.writer.insert(Writer::start()?),
        };
        writer.waiting.fetch_add(1, Ordering::AcqRel);
        match writer.queue.send(Piece::Data(kind, data)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(writer.failure()),
        }
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        let Some(writer) = &self.writer else { return Ok(()) };
        let (done, wait) = oneshot::channel();
        if writer.queue.send(Piece::Flush(done)).await.is_err() || wait.await.is_err() {
            return Err(writer.failure());
        }
        Ok(())
    }

    /// Whether it was written: `false` when that might have blocked.
    fn write_now(&self, kind: OutputKind, data: &[u8]) -> io::Result<bool> {
        let fits = match self.direct[kind as usize] {
            Direct::Always => true,
            Direct::IfRoom => data.len() <= PIPE_BUF && has_room(kind),
            Direct::Never => false,
        };
        if !fits {
            return Ok(false);
        }
        match write_all(kind, data, false) {
            Ok(()) => Ok(true),
            // Somebody made the pipe non-blocking, and it filled meanwhile; up to PIPE_BUF it is all or nothing.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Writer {
    fn start() -> io::Result<Self> {
        let (queue, mut pieces) = mpsc::channel(QUEUE);
        let writer = Self { queue, waiting: Arc::default(), failure: Arc::default() };
        let (waiting, failure) = (Arc::clone(&writer.waiting), Arc::clone(&writer.failure));
        thread::Builder::new().name("output".to_owned()).spawn(move || {
            while let Some(piece) = pieces.blocking_recv() {
                match piece {
                    Piece::Data(kind, data) => {
                        if let Err(error) = write_all(kind, &data, true) {
                            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                            return;
                        }
                        waiting.fetch_sub(1, Ordering::AcqRel);
                    }
                    Piece::Flush(done) => {
                        let _ = done.send(());
                    }
                }
            }
        })?;
        Ok(writer)
    }

    fn failure(&self) -> io::Error {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(|| ErrorKind::BrokenPipe.into())
    }
}

fn fd(kind: OutputKind) -> BorrowedFd<'static> {
    match kind {
        OutputKind::Stdout => rustix::stdio::stdout(),
        OutputKind::Stderr => rustix::stdio::stderr(),
    }
}

fn direct(kind: OutputKind) -> Direct {
    match rustix::fs::fstat(fd(kind)).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::RegularFile) => Direct::Always,
        Ok(FileType::CharacterDevice) if !rustix::termios::isatty(fd(kind)) => Direct::Always,
        Ok(FileType::Fifo) => Direct::IfRoom,
        _ => Direct::Never,
    }
}

fn has_room(kind: OutputKind) -> bool {
    let fd = fd(kind);
    let mut polled = [PollFd::new(&fd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    // An error or a hang-up is left to the write, which has a name for it.
    matches!(poll(&mut polled, Some(&now)), Ok(1))
}

/// Writes past `std`'s own buffer, which would hold back what has no line end.
fn write_all(kind: OutputKind, mut data: &[u8], wait: bool) -> io::Result<()> {
    while !data.is_empty() {
        match rustix::io::write(fd(kind), data) {
            Ok(written) => data = &data[written..],
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) if wait => {
                let fd = fd(kind);
                let _ = poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
