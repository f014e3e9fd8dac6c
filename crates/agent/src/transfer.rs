use std::{
    cell::RefCell,
    fs::File,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;
use rustix::io::Errno;
use sandbar_protocol::{Failure, FrameError, FrameKind, HEADER, Header, MAX_BULK, Reply, VERSION, encode_message, reply};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    failure::{self, Kind, Result, failure, refusal},
    session,
};

/// Walking trees needs some; only what is touched is memory.
const STACK: usize = 256 << 10;
/// How long a refused sender is listened to, so that it reads the refusal instead of a broken connection.
const FAREWELL: Duration = Duration::from_secs(5);

/// A connection in the hands of a thread: blocking.
#[derive(Debug)]
pub(crate) struct Link {
    socket: Arc<UnixStream>,
    /// What the event loop had read beyond the request.
    ahead: Bytes,
    /// What was written by the protocol's first answer: the preamble goes out before it.
    preamble_sent: bool,
}

/// Gives the connection to a thread. Waits while too many are at work; refuses when the sandbox has no thread left to give.
pub(crate) async fn hand_over(
    turns: &Arc<Semaphore>,
    lent: &RefCell<Vec<Weak<UnixStream>>>,
    (stream, is_on_vsock): (tokio::net::UnixStream, bool),
    ahead: Bytes,
    connection: OwnedSemaphorePermit,
    work: impl FnOnce(&mut Link) -> Result<()> + Send + 'static,
) {
    let turn = tokio::select! {
        biased;
        turn = Arc::clone(turns).acquire_owned() => turn,
        // Whoever gives up waiting holds a connection no longer.
        () = session::hung_up(&stream, is_on_vsock) => return,
    };
    let Ok(turn) = turn else { return };
    let Ok(socket) = stream.into_std() else { return };
    if socket.set_nonblocking(false).is_err() {
        return;
    }
    let socket = Arc::new(socket);
    {
        let mut lent = lent.borrow_mut();
        lent.retain(|socket| socket.strong_count() > 0);
        lent.push(Arc::downgrade(&socket));
    }
    let mut link = Link { socket: Arc::clone(&socket), ahead, preamble_sent: false };
    let body = move || {
        if let Err(failure) = work(&mut link) {
            link.refuse(failure);
        }
        drop((link, turn, connection));
    };
    if let Err(error) = thread::Builder::new().stack_size(STACK).spawn(body) {
        let refused = failure::failure(Kind::ResourceExhausted, format!("cannot start a thread: {error}"));
        let _ = socket.set_nonblocking(true);
        Link { socket, ahead: Bytes::new(), preamble_sent: false }.say(&refusal(refused)).ok();
    }
}

impl Link {
    /// Writes a message, after the preamble if it is the first.
    pub(crate) fn say(&mut self, message: &impl Message) -> std::result::Result<(), FrameError> {
        let mut bytes = BytesMut::new();
        if !self.preamble_sent {
            bytes.extend_from_slice(&VERSION.encode());
        }
        encode_message(&mut bytes, message)?;
        (&*self.socket).write_all(&bytes)?;
        self.preamble_sent = true;
        Ok(())
    }

    /// Answers the request.
    pub(crate) fn answer(&mut self, answer: reply::Answer) -> Result<()> {
        self.say(&Reply { answer: Some(answer) }).map_err(|error| lost(&error))
    }

    /// The connection, which outlives this.
    pub(crate) fn own(&self) -> io::Result<UnixStream> {
        self.socket.try_clone()
    }

    /// For waiting on it.
    pub(crate) fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Says why not, and listens for a while to a host that is still sending: closing at once would break its connection before it
    /// has read the reason.
    fn refuse(&mut self, failure: Failure) {
        if self.say(&refusal(failure)).is_err() {
            return;
        }
        let _ = self.socket.shutdown(Shutdown::Write);
        let _ = self.socket.set_read_timeout(Some(FAREWELL));
        let end = Instant::now() + FAREWELL;
        let mut discarded = vec![0; 64 << 10];
        while Instant::now() < end && (&*self.socket).read(&mut discarded).is_ok_and(|length| length > 0) {}
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ahead.is_empty() {
            return (&*self.socket).read(buffer);
        }
        let length = self.ahead.len().min(buffer.len());
        self.ahead.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// The connection failed: nobody will hear of it, but the work must be undone.
pub(crate) fn lost(error: &FrameError) -> Failure {
    failure(Kind::Unavailable, format!("the connection was lost: {error}"))
}

/// The payload of the Bytes frames up to End, as one stream. A connection that ends before is an error.
#[derive(Debug)]
pub(crate) struct Incoming<'link> {
    link: &'link mut Link,
    /// Bytes of the current frame that were not read yet.
    left: usize,
    ended: bool,
}

impl<'link> Incoming<'link> {
    pub(crate) fn new(link: &'link mut Link) -> Self {
        Self { link, left: 0, ended: false }
    }

    /// Reads and forgets what is left, up to End.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink()).map(drop)
    }
}

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 && !self.ended {
            let mut header = [0; HEADER];
            self.link.read_exact(&mut header)?;
            let header = Header::decode(header)?;
            match header.kind {
                FrameKind::Bytes => self.left = header.length,
                FrameKind::End => self.ended = true,
                other => return Err(FrameError::UnexpectedKind(other).into()),
            }
        }
        let wanted = self.left.min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        match self.link.read(&mut buffer[..wanted])? {
            0 => Err(FrameError::Cut.into()),
            length => {
                self.left -= length;
                Ok(length)
            }
        }
    }
}

/// Collects bytes and sends them as Bytes frames.
#[derive(Debug)]
pub(crate) struct Outgoing<'link> {
    link: &'link mut Link,
    /// A header's room, then payload.
    buffer: Vec<u8>,
}

impl<'link> Outgoing<'link> {
    pub(crate) fn new(link: &'link mut Link) -> Self {
        let mut buffer = Vec::with_capacity(HEADER + MAX_BULK);
        buffer.resize(HEADER, 0);
        Self { link, buffer }
    }

    /// Sends what is left, and End.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        (&*self.link.socket).write_all(&Header { kind: FrameKind::End, length: 0 }.encode())
    }

    /// Reads once from a file, and sends that as a frame. Returns how much there was.
    pub(crate) fn pass(&mut self, file: &mut impl Read, most: usize) -> std::result::Result<usize, Broken> {
        self.buffer.resize(HEADER + most.min(MAX_BULK), 0);
        let length = read(file, &mut self.buffer[HEADER..])?;
        self.buffer.truncate(HEADER + length);
        self.flush().map_err(|_| Broken::Connection)?;
        Ok(length)
    }

    /// Sends a frame of the next bytes of a regular file, at most `most`, by page and not by copy where the kernel can. Returns how long it is.
    ///
    /// A frame that has begun is as long as it said: when the file is shorter meanwhile or cannot be read, zeros take the place, and the failure
    /// that the caller sends after it says that they are none of the file's.
    pub(crate) fn pass_on(&mut self, file: &mut File, most: usize) -> std::result::Result<usize, Broken> {
        let length = most.min(MAX_BULK);
        let mut socket = &*self.link.socket;
        socket.write_all(&Header { kind: FrameKind::Bytes, length }.encode()).map_err(|_| Broken::Connection)?;
        let mut left = length;
        let outcome = loop {
            if left == 0 {
                return Ok(length);
            }
            match rustix::fs::sendfile(socket, &*file, None, left) {
                Ok(0) => break Broken::Shorter,
                Ok(sent) => left -= sent,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(Broken::Connection),
                // Not every file gives pages away, and not every socket takes them.
                Err(_) => {
                    let mut copy = vec![0; left];
                    match read(file, &mut copy) {
                        Ok(0) => break Broken::Shorter,
                        Ok(length) => {
                            socket.write_all(&copy[..length]).map_err(|_| Broken::Connection)?;
                            left -= length;
                        }
                        Err(broken) => break broken,
                    }
                }
            }
        };
        socket.write_all(&vec![0; left]).map_err(|_| Broken::Connection)?;
        Err(outcome)
    }
}

fn read(file: &mut impl Read, buffer: &mut [u8]) -> std::result::Result<usize, Broken> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(Broken::Source),
        }
    }
}

/// Which side of a copy failed.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The file ended before its end.
    Shorter,
    Source(io::Error),
    Connection,
}

impl Write for Outgoing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() >= HEADER + MAX_BULK {
            self.flush()?;
        }
        let length = bytes.len().min(HEADER + MAX_BULK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        let length = self.buffer.len().saturating_sub(HEADER);
        if length > 0 {
            self.buffer[..HEADER].copy_from_slice(&Header { kind: FrameKind::Bytes, length }.encode());
            (&*self.link.socket).write_all(&self.buffer)?;
        }
        self.buffer.clear();
        self.buffer.resize(HEADER, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Seek, os::fd::OwnedFd};

    use super::*;

    fn link() -> (Link, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Link { socket: Arc::new(ours), ahead: Bytes::new(), preamble_sent: true }, theirs)
    }

    fn file(content: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        file
    }

    #[test]
    fn a_file_is_passed_on_in_frames_from_where_it_is() {
        let (mut link, mut host) = link();
        let mut file = file(b"0123456789");
        file.seek(io::SeekFrom::Start(3)).unwrap();
        let mut outgoing = Outgoing::new(&mut link);
        assert_eq!(outgoing.pass_on(&mut file, 4).unwrap(), 4);
        assert_eq!(outgoing.pass_on(&mut file, 3).unwrap(), 3);
        outgoing.finish().unwrap();
        drop(link);
        let mut said = Vec::new();
        host.read_to_end(&mut said).unwrap();
        let frame = |kind, content: &[u8]| [&Header { kind, length: content.len() }.encode(), content].concat();
        assert_eq!(said, [frame(FrameKind::Bytes, b"3456"), frame(FrameKind::Bytes, b"789"), frame(FrameKind::End, b"")].concat());
    }

    #[test]
    fn a_frame_of_a_file_that_became_shorter_is_as_long_as_it_said() {
        let (mut link, mut host) = link();
        let mut file = file(b"012");
        let passed = Outgoing::new(&mut link).pass_on(&mut file, 8);
        assert!(matches!(passed, Err(Broken::Shorter)), "{passed:?}");
        drop(link);
        let mut said = Vec::new();
        host.read_to_end(&mut said).unwrap();
        assert_eq!(said, [Header { kind: FrameKind::Bytes, length: 8 }.encode().as_slice(), b"012\0\0\0\0\0"].concat());
    }

    #[test]
    fn what_gives_no_pages_away_is_copied() {
        let (mut link, mut host) = link();
        // The end of a pipe is no file that `sendfile` reads.
        let (from, mut into) = io::pipe().unwrap();
        into.write_all(b"piped").unwrap();
        let mut file = File::from(OwnedFd::from(from));
        assert_eq!(Outgoing::new(&mut link).pass_on(&mut file, 5).unwrap(), 5);
        drop(link);
        let mut said = Vec::new();
        host.read_to_end(&mut said).unwrap();
        assert_eq!(&said[HEADER..], b"piped");
    }
}
