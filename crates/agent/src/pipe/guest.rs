use std::{io, os::fd::OwnedFd, rc::Rc, time::Duration};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
};

use super::{
    frame::{Frame, Heard, Nonce, Parser, Side},
    session::Session,
};

/// While nobody has the host's end the port says "end of file" at once, and nothing tells when somebody comes.
const REST: Duration = Duration::from_millis(10);
/// One call's worth.
const BUFFER: usize = 64 << 10;

/// Serves the guest's end of the pipe: each stream that the host opens becomes a connection. Returns when the port fails.
pub(crate) async fn run(port: OwnedFd, welcome: impl Fn(OwnedFd)) -> io::Error {
    let port = match crate::readiness::register(port, Interest::READABLE | Interest::WRITABLE) {
        Ok(port) => port,
        Err(error) => return error,
    };
    let mut parser = Parser::new(Side::Guest);
    let mut buffer = vec![0; BUFFER];
    let mut meeting: Option<(Nonce, Session)> = None;
    let mut writer: Option<tokio::task::AbortHandle> = None;
    let port = Rc::new(port);
    loop {
        let length = match port.async_io(Interest::READABLE, |port| Ok(rustix::io::read(port, &mut buffer)?)).await {
            Ok(0) => {
                // The host's end is gone, and with it the meeting.
                meeting = None;
                parser.lose();
                tokio::time::sleep(REST).await;
                continue;
            }
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return error,
        };
        parser.push(&buffer[..length]);
        loop {
            match parser.next() {
                Ok(None) => break,
                Ok(Some(Heard::Greeting(nonce))) => {
                    // Repeated, because the answer took its time.
                    if meeting.as_ref().is_some_and(|(known, _)| *known == nonce) {
                        continue;
                    }
                    if let Some(writer) = writer.take() {
                        writer.abort();
                    }
                    let (session, queue) = Session::new();
                    meeting = Some((nonce, session));
                    let port = Rc::clone(&port);
                    writer = Some(tokio::task::spawn_local(async move { write(&port, nonce, queue).await }).abort_handle());
                }
                Ok(Some(Heard::Frame(Frame::Open(number)))) => {
                    let Some((_, session)) = &meeting else { continue };
                    // What cannot be taken is told by the end of the stream.
                    if let Err(_full) = open(session, number, &welcome) {
                        session.take(Frame::Reset(number));
                    }
                }
                Ok(Some(Heard::Frame(frame))) => {
                    if let Some((_, session)) = &meeting {
                        session.take(frame);
                    }
                }
                // Nobody knows any more what belongs to which stream.
                Err(_) => meeting = None,
            }
        }
    }
}

fn open(session: &Session, number: u32, welcome: &impl Fn(OwnedFd)) -> io::Result<()> {
    let (ours, theirs) = UnixStream::pair()?;
    session.accept(number, ours)?;
    welcome(theirs.into_std()?.into());
    Ok(())
}

async fn write(port: &AsyncFd<OwnedFd>, nonce: Nonce, mut queue: tokio::sync::mpsc::Receiver<Frame>) {
    let mut bytes = BytesMut::from(&*Side::Guest.greeting(nonce));
    loop {
        while !bytes.is_empty() {
            match port.async_io(Interest::WRITABLE, |port| Ok(rustix::io::write(port, &bytes)?)).await {
                Ok(length) => bytes.advance(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => tokio::time::sleep(REST).await,
            }
        }
        let Some(frame) = queue.recv().await else { return };
        frame.encode(&mut bytes);
    }
}
