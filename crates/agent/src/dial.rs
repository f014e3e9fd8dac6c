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
use sandbar_protocol::{Dial, FrameKind, FrameReader, FrameWriter};
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
pub(crate) async fn relay(host: UnixStream, ahead: Bytes, port: TcpStream) {
    let mut there = pin!(pass(&host, &port, ahead));
    let mut back = pin!(pass(&port, &host, Bytes::new()));
    let mut gone = pin!(session::hung_up(&host));
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
                Err(_) => return,
            },
            // Nobody waits for an answer any more.
            () = &mut gone, if !is_back => is_back = true,
        }
    }
}

/// The same on a wire that cannot end one direction alone: bytes, and the ends of both directions, are frames. It goes on until the host is gone.
pub(crate) async fn relay_in_frames(mut host: UnixStream, ahead: Bytes, mut port: TcpStream) {
    let (read, write) = host.split();
    let (mut from_port, mut to_port) = port.split();
    let there = async {
        let mut reader = FrameReader::new(AsyncReadExt::chain(io::Cursor::new(ahead), read));
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
        let mut writer = FrameWriter::new(write);
        loop {
            // An idle stream costs no buffer.
            from_port.readable().await?;
            let mut buffer = vec![0; BUFFER];
            let length = from_port.read(&mut buffer).await?;
            if length == 0 {
                writer.end().await?;
                return io::Result::Ok(());
            }
            writer.bytes(FrameKind::Bytes, &buffer[..length]).await?;
        }
    };
    let (mut there, mut back) = (pin!(there), pin!(back));
    tokio::select! {
        _ = &mut there => {}
        passed = &mut back => if passed.is_ok() {
            // The host ends the connection when it has heard the end.
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
