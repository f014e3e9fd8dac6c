use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use sandbar_protocol::Dial;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::failure::{Kind, Result, failure};

/// A loopback connection is made at once, or its listener's queue is full.
const PATIENCE: Duration = Duration::from_secs(10);
/// One read's worth: large enough that the cost of a call vanishes, small enough for the processor's cache.
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

/// Passes bytes both ways until both directions have ended, or one has failed.
pub(crate) async fn relay(mut host: UnixStream, ahead: Bytes, mut port: TcpStream) {
    let (host_read, host_write) = host.split();
    let (port_read, port_write) = port.split();
    let _ = tokio::try_join!(copy(host_read, port_write, ahead), copy(port_read, host_write, Bytes::new()));
}

/// Passes bytes one way, and then the end.
async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, ahead: Bytes) -> io::Result<()> {
    to.write_all(&ahead).await?;
    drop(ahead);
    let mut buffer = BytesMut::new();
    loop {
        // An idle stream costs no buffer: the first byte is waited for with a small one.
        buffer.reserve(BUFFER);
        if from.read_buf(&mut buffer).await? == 0 {
            return to.shutdown().await;
        }
        to.write_all_buf(&mut buffer).await?;
    }
}
