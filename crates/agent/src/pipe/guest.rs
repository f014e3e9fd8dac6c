use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    thread,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use rustix::fs::OFlags;
use tokio::{net::UnixStream, sync::mpsc, task::AbortHandle};

use super::{
    frame::{Frame, Heard, LOST, Nonce, Parser, Side},
    session::Session,
};

/// While nobody has the host's end the port says "end of file" at once, and nothing tells when somebody comes.
const REST: Duration = Duration::from_millis(10);
/// One call's worth.
const BUFFER: usize = 64 << 10;
/// Pieces that wait between the port and the event loop, in each direction.
const QUEUE: usize = 4;
/// The threads do nothing but read and write.
const STACK: usize = 64 << 10;
/// The one that serves does as much as the agent's own.
const SERVING: usize = 512 << 10;

/// Serves the guest's end of the pipe on a thread of its own, and gives the connections. The agent's own thread may have to wait for a file that comes
/// through this very pipe, in a volume.
///
/// # Errors
/// Of the kernel.
pub(crate) fn start(port: OwnedFd) -> io::Result<mpsc::UnboundedReceiver<OwnedFd>> {
    // Whoever receives refuses those that are too many.
    let (sender, connections) = mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let serving = move || {
        let welcome = |socket| drop(sender.send(socket));
        let error = tokio::task::LocalSet::new().block_on(&runtime, run(port, welcome));
        crate::start::complain(&error);
    };
    thread::Builder::new().stack_size(SERVING).spawn(serving)?;
    Ok(connections)
}

/// Serves the guest's end of the pipe: each stream that the host opens becomes a connection. Returns when the port fails.
///
/// Two threads read and write the port. The event loop cannot: it takes a port whose host was gone for a moment for one that is closed for good.
pub(crate) async fn run(port: OwnedFd, welcome: impl Fn(OwnedFd)) -> io::Error {
    match ends(port) {
        Ok((read, write)) => serve(read, &write, welcome).await,
        Err(error) => error,
    }
}

/// The same on what the two threads read and write.
pub(super) async fn serve(mut read: mpsc::Receiver<Incoming>, write: &mpsc::Sender<Bytes>, welcome: impl Fn(OwnedFd)) -> io::Error {
    let mut parser = Parser::new(Side::Guest);
    let mut meeting: Option<Meeting> = None;
    loop {
        match read.recv().await {
            Some(Ok(bytes)) => parser.push(&bytes),
            // The host's end is gone, and with it the meeting.
            None => return io::Error::other("the thread that reads the port has ended"),
            Some(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                parser.lose();
                lose(&mut meeting, write).await;
            }
            Some(Err(error)) => return error,
        }
        loop {
            match parser.next() {
                Ok(None) => break,
                Ok(Some(Heard::Greeting(nonce))) => {
                    // Repeated, because the answer took its time.
                    if meeting.as_ref().is_some_and(|known| known.nonce == nonce) {
                        continue;
                    }
                    // The earlier one says nothing any more.
                    drop(meeting.take());
                    let (session, queue) = Session::new(Side::Guest);
                    let writer = tokio::task::spawn_local(forward(nonce, queue, write.clone())).abort_handle();
                    meeting = Some(Meeting { nonce, session, writer });
                }
                Ok(Some(Heard::Frame(Frame::Open(number)))) => {
                    let Some(Meeting { session, .. }) = &meeting else { continue };
                    // The host must hear of it: its client would wait for an answer.
                    if let Err(_full) = open(session, number, &welcome) {
                        session.refuse(number);
                    }
                }
                Ok(Some(Heard::Frame(frame))) => {
                    if let Some(Meeting { session, .. }) = &meeting {
                        session.take(frame);
                    }
                }
                // Nobody knows any more what belongs to which stream.
                Err(_) => lose(&mut meeting, write).await,
            }
        }
    }
}

/// What the guest has with one host. Dropped, it says nothing any more.
struct Meeting {
    nonce: Nonce,
    session: Session,
    writer: AbortHandle,
}

impl Drop for Meeting {
    fn drop(&mut self) {
        self.writer.abort();
    }
}

/// Ends the meeting, if there is one, and says so, as the last word about it: behind that an answer to its greeting would be taken for a meeting. The port may
/// have told of the end of an earlier host after the greeting of the next one, who takes itself for met.
async fn lose(meeting: &mut Option<Meeting>, port: &mpsc::Sender<Bytes>) {
    if let Some(lost) = meeting.take() {
        drop(lost);
        let _ = port.send(Side::Guest.greeting(LOST)).await;
    }
}

fn open(session: &Session, number: u32, welcome: &impl Fn(OwnedFd)) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    session.accept(number, ours)?;
    welcome(theirs.into_std()?.into());
    Ok(())
}

/// What one meeting wants to say, behind its greeting. What is left of an earlier one goes before that, and nobody listens to it.
async fn forward(nonce: Nonce, mut queue: mpsc::Receiver<Frame>, port: mpsc::Sender<Bytes>) {
    let mut bytes = BytesMut::from(&*Side::Guest.greeting(nonce));
    loop {
        if port.send(bytes.split().freeze()).await.is_err() {
            return;
        }
        let Some(frame) = queue.recv().await else { return };
        frame.encode(&mut bytes);
        // What else is there goes with it.
        while bytes.len() < BUFFER
            && let Ok(frame) = queue.try_recv()
        {
            frame.encode(&mut bytes);
        }
    }
}

/// What was read, or the end of what there was to be read for now.
pub(super) type Incoming = io::Result<Bytes>;

/// Starts the threads.
fn ends(port: OwnedFd) -> io::Result<(mpsc::Receiver<Incoming>, mpsc::Sender<Bytes>)> {
    rustix::fs::fcntl_setfl(&port, rustix::fs::fcntl_getfl(&port)?.difference(OFlags::NONBLOCK))?;
    let mut from = File::from(port);
    let mut to = from.try_clone()?;
    let (sender, read) = mpsc::channel(QUEUE);
    let (write, mut queue) = mpsc::channel::<Bytes>(QUEUE);
    let reading = move || {
        let mut buffer = vec![0; BUFFER];
        let mut connected = false;
        loop {
            let heard = match from.read(&mut buffer) {
                Ok(0) => {
                    if !connected {
                        thread::sleep(REST);
                        continue;
                    }
                    connected = false;
                    Err(io::ErrorKind::UnexpectedEof.into())
                }
                Ok(length) => {
                    connected = true;
                    Ok(Bytes::copy_from_slice(&buffer[..length]))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            if sender.blocking_send(heard).is_err() {
                return;
            }
        }
    };
    let writing = move || {
        while let Some(bytes) = queue.blocking_recv() {
            // Waits while the host is gone. What cannot be written was for a host that is not there any more.
            let _ = to.write_all(&bytes);
        }
    };
    thread::Builder::new().stack_size(STACK).spawn(reading)?;
    thread::Builder::new().stack_size(STACK).spawn(writing)?;
    Ok((read, write))
}
