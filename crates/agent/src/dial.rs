use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    pin::pin,
    time::Duration,
};

use bytes::{Buf, Bytes};
use rustix::{
    io::Errno,
    pipe::{PipeFlags, SpliceFlags},
};
use sandbar_protocol::{Dial, FrameKind, FrameReader, HEADER, Header, MAX_BULK};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::{TcpStream, UnixStream},
};

use crate::{
    failure::{Kind, Result, failure},
    session,
};

/// A loopback connection is made at once, or its listener's queue is full.
const PATIENCE: Duration = Duration::from_secs(10);
/// One call's worth: large enough that the cost of a call vanishes, small enough for the processor's cache.
const BUFFER: usize = 256 << 10;

/// Connects to a port inside: by IPv4, then by IPv6.
pub(crate) async fn connect(request: Dial) -> Result<TcpStream> {
    let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| failure(Kind::InvalidInput, format!("{} is not a port", request.port)))?;
    let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    let refused = |error: &io::Error| failure(Kind::Unavailable, format!("nothing answers on port {port}: {error}"));
    match tokio::time::timeout(PATIENCE, TcpStream::connect(addresses.as_slice())).await {
        Ok(Ok(stream)) => {
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(refused(&error)),
        Err(_) => Err(failure(Kind::Unavailable, format!("port {port} did not accept a connection within {} s", PATIENCE.as_secs()))),
    }
}

/// Passes bytes both ways until both directions have ended, or one has failed, or the host is gone and all it said was passed on.
pub(crate) async fn relay(host: UnixStream, ahead: Bytes, port: &TcpStream) {
    let mut there = pin!(pass(&host, port, ahead));
    let mut back = pin!(pass(port, &host, Bytes::new()));
    let mut gone = pin!(session::hung_up(&host, false));
    let (mut is_there, mut is_back) = (false, false);
    while !(is_there && is_back) {
        tokio::select! {
            biased;
            passed = &mut there, if !is_there => match passed {
                Ok(()) => is_there = true,
                Err(_) => return,
            },
            passed = &mut back, if !is_back => match passed {
                Ok(()) => is_back = true,
                // Reading never fails like this: it is the host that is gone.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => is_back = true,
                Err(_) => return,
            },
            // Nobody waits for an answer any more.
            () = &mut gone, if !is_back => is_back = true,
        }
    }
}

/// The same on a wire that cannot end one direction alone: bytes, and the ends of both directions, are frames. It goes on until the host is gone, or one
/// direction has failed: then the host sees a connection that was cut.
pub(crate) async fn relay_in_frames(mut host: UnixStream, ahead: Bytes, mut port: TcpStream) {
    let (read, mut write) = host.split();
    let (mut from_port, mut to_port) = port.split();
    let there = async {
        let mut reader = FrameReader::new(AsyncReadExt::chain(ahead.as_ref(), read));
        while let Ok(Some(frame)) = reader.next().await {
            match frame.kind {
                FrameKind::Bytes => to_port.write_all(&frame.payload).await?,
                FrameKind::End => to_port.shutdown().await?,
                FrameKind::Message | FrameKind::Stdout | FrameKind::Stderr => break,
            }
        }
        io::Result::Ok(())
    };
    let back = async {
        loop {
            // An idle stream costs no buffer.
            from_port.readable().await?;
            let mut frame = vec![0; HEADER + MAX_BULK];
            let length = from_port.read(&mut frame[HEADER..]).await?;
            let kind = if length == 0 { FrameKind::End } else { FrameKind::Bytes };
            frame.truncate(HEADER + length);
            frame[..HEADER].copy_from_slice(&Header { kind, length }.encode());
            write.write_all(&frame).await?;
            if kind == FrameKind::End {
                return io::Result::Ok(());
            }
        }
    };
    let (mut there, mut back) = (pin!(there), pin!(back));
    tokio::select! {
        _ = &mut there => {}
        passed = &mut back => if passed.is_ok() {
            // Bytes on their way would be lost with a connection that this side ends: the host does, when it has heard the end.
            let _ = there.await;
        }
    }
}

/// A socket of the event loop, for calls that the loop does not know.
trait Socket: AsFd {
    async fn ready(&self, interest: Interest) -> io::Result<()>;
    fn attempt<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T>;
}

impl Socket for UnixStream {
    async fn ready(&self, interest: Interest) -> io::Result<()> {
        Self::ready(self, interest).await.map(drop)
    }

    fn attempt<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.try_io(interest, call)
    }
}

impl Socket for TcpStream {
    async fn ready(&self, interest: Interest) -> io::Result<()> {
        Self::ready(self, interest).await.map(drop)
    }

    fn attempt<T>(&self, interest: Interest, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.try_io(interest, call)
    }
}

async fn perform<T>(socket: &impl Socket, interest: Interest, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        socket.ready(interest).await?;
        match socket.attempt(interest, &mut call) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            other => return other,
        }
    }
}

/// Passes bytes one way, and then the end. They go through a pipe, where they are moved by page and not copied, if the kernel can.
async fn pass(from: &impl Socket, to: &impl Socket, ahead: Bytes) -> io::Result<()> {
    write(to, ahead).await?;
    match splice(from, to).await {
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::MFILE | Errno::NFILE)
            ) =>
        {
            copy(from, to).await?;
        }
        other => other?,
    }
    // A connection that is gone as a whole has no half to end.
    let _ = rustix::net::shutdown(to, rustix::net::Shutdown::Write);
    Ok(())
}

/// Fails with `INVAL` or its like only before it has moved anything.
async fn splice(from: &impl Socket, to: &impl Socket) -> io::Result<()> {
    let (out, into) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // Where that is not allowed, a smaller one does.
    let _ = rustix::pipe::fcntl_setpipe_size(&into, BUFFER);
    let mut buffer = Vec::new();
    let mut can_leave = true;
    loop {
        let mut waiting = perform(from, Interest::READABLE, || transfer(from, &into, 4 * BUFFER)).await?;
        if waiting == 0 {
            return Ok(());
        }
        while waiting > 0 && can_leave {
            match perform(to, Interest::WRITABLE, || transfer(&out, to, waiting)).await {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => can_leave = false,
                length => waiting = waiting.saturating_sub(length?),
            }
        }
        // A socket that takes no pages gets copies of what is in the pipe.
        while waiting > 0 {
            buffer.resize(waiting.min(BUFFER), 0);
            let length = rustix::io::read(&out, &mut buffer)?;
            write(to, Bytes::copy_from_slice(&buffer[..length])).await?;
            waiting = waiting.saturating_sub(length);
        }
    }
}

fn transfer(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    Ok(rustix::pipe::splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)?)
}

async fn copy(from: &impl Socket, to: &impl Socket) -> io::Result<()> {
    loop {
        // An idle stream costs no buffer.
        from.ready(Interest::READABLE).await?;
        let mut buffer = vec![0; BUFFER];
        let length = perform(from, Interest::READABLE, || Ok(rustix::io::read(from, &mut buffer)?)).await?;
        if length == 0 {
            return Ok(());
        }
        buffer.truncate(length);
        write(to, buffer.into()).await?;
    }
}

async fn write(to: &impl Socket, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        let length = perform(to, Interest::WRITABLE, || Ok(rustix::net::send(to, &bytes, rustix::net::SendFlags::NOSIGNAL)?)).await?;
        bytes.advance(length);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sandbar_protocol::encode_frame;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn in_frames_each_direction_ends_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut service, _) = listener.accept().await.unwrap();
        let (mut host, agent) = UnixStream::pair().unwrap();
        // The first frame came with the request.
        let mut ahead = bytes::BytesMut::new();
        encode_frame(&mut ahead, FrameKind::Bytes, b"question").unwrap();
        let relay = relay_in_frames(agent, ahead.freeze(), port);
        let talk = async {
            let mut end = bytes::BytesMut::new();
            encode_frame(&mut end, FrameKind::End, b"").unwrap();
            host.write_all(&end).await.unwrap();
            let mut heard = String::new();
            service.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "question");
            service.write_all(b"answer").await.unwrap();
            drop(service);
            let mut reader = FrameReader::new(&mut host);
            let mut said = Vec::new();
            loop {
                let frame = reader.next().await.unwrap().unwrap();
                said.extend_from_slice(&frame.payload);
                if frame.kind == FrameKind::End {
                    break;
                }
            }
            assert_eq!(said, b"answer");
            drop(host);
        };
        tokio::join!(relay, talk);
    }

    #[tokio::test]
    async fn in_frames_a_connection_that_breaks_inside_has_no_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (service, _) = listener.accept().await.unwrap();
        let (mut host, agent) = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_linger(&service, Some(Duration::ZERO)).unwrap();
        drop(service);
        relay_in_frames(agent, Bytes::new(), port).await;
        let mut rest = Vec::new();
        host.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }
}
