use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use bytes::Bytes;
use sandbar_protocol::{Dial, FrameKind, FrameReader, HEADER, Header, MAX_BULK};
use sandbar_relay::Free;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use crate::{
    failure::{Kind, Result, failure},
    session,
    twin::Twin,
};

/// A loopback connection is made at once, or its listener's queue is full.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connects to a port inside: by IPv4, then by IPv6. `is_own` says of a port that the agent listens on it, and so nobody else does.
pub(crate) async fn connect(request: Dial, is_own: impl FnOnce(u16) -> bool) -> Result<TcpStream> {
    let port = u16::try_from(request.port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| failure(Kind::InvalidInput, format!("{} is not a port", request.port)))?;
    if is_own(port) {
        return Err(failure(
            Kind::Unavailable,
            format!("nothing answers on port {port}: what leaves by it is taken there, as the kernel has no packet filter"),
        ));
    }
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

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passed {
    /// Both directions have ended, or there is nobody inside any more.
    Ended,
    /// The host has gone in the middle of it: what has come is not all there was.
    Broken,
}

/// Passes bytes both ways until both directions have ended, or one has failed, or the host is gone and all it said was passed on. What ends the host's words
/// is asked whether that is an end in order: only then it is passed on.
pub(crate) async fn relay(host: UnixStream, ahead: Bytes, port: &TcpStream, is_end: impl Future<Output = bool>) -> Passed {
    let mut there = pin!(async {
        sandbar_relay::write(port, ahead).await?;
        sandbar_relay::pass_bytes(&host, port, &Free).await?;
        if !is_end.await {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        sandbar_relay::end(port);
        io::Result::Ok(())
    });
    let mut back = pin!(sandbar_relay::pass(port, &host, &Free));
    let mut gone = pin!(session::hung_up(&host, false));
    let (mut is_there, mut is_back) = (false, false);
    while !(is_there && is_back) {
        tokio::select! {
            biased;
            passed = &mut there, if !is_there => match passed {
                Ok(()) => is_there = true,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Passed::Broken,
                Err(_) => return Passed::Ended,
            },
            passed = &mut back, if !is_back => match passed {
                Ok(()) => is_back = true,
                // Reading never fails like this: it is the host that is gone.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => is_back = true,
                Err(_) => return Passed::Ended,
            },
            // Nobody waits for an answer any more.
            () = &mut gone, if !is_back => is_back = true,
        }
    }
    Passed::Ended
}

/// The same on a wire that cannot end one direction alone (vsock): bytes, and the ends of both directions, are frames. It goes on until the host is gone, or
/// one direction has failed: then the host sees a connection that was cut.
pub(crate) async fn relay_in_frames(mut host: UnixStream, ahead: Bytes, port: &TcpStream, is_end: impl Future<Output = bool>) -> Passed {
    let twin = Twin::of(&host);
    let (read, mut write) = host.split();
    let there = async {
        let mut is_end = pin!(is_end);
        let mut has_ended = false;
        let mut reader = FrameReader::new(AsyncReadExt::chain(ahead.as_ref(), read));
        loop {
            let (kind, payload) = match reader.next().await {
                Ok(Some(frame)) => (Some(frame.kind), frame.payload),
                Ok(None) => (None, Bytes::new()),
                Err(_) => return if has_ended { Passed::Ended } else { Passed::Broken },
            };
            match kind {
                Some(FrameKind::Bytes) => {
                    if sandbar_relay::write(port, payload).await.is_err() {
                        return Passed::Ended;
                    }
                }
                Some(FrameKind::End) | None => {
                    if !has_ended && !is_end.as_mut().await {
                        return Passed::Broken;
                    }
                    has_ended = true;
                    sandbar_relay::end(port);
                    if kind.is_none() {
                        return Passed::Ended;
                    }
                }
                Some(FrameKind::Message | FrameKind::Stdout | FrameKind::Stderr) => return Passed::Broken,
            }
        }
    };
    let back = async {
        loop {
            // An idle stream costs no buffer.
            port.readable().await?;
            let mut frame = vec![0; HEADER + MAX_BULK];
            let length = match port.try_read(&mut frame[HEADER..]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                read => read?,
            };
            let kind = if length == 0 { FrameKind::End } else { FrameKind::Bytes };
            frame.truncate(HEADER + length);
            frame[..HEADER].copy_from_slice(&Header { kind, length }.encode());
            // A host that is gone may have said something before.
            if write.write_all(&frame).await.is_err() || kind == FrameKind::End {
                return io::Result::Ok(());
            }
        }
    };
    let both = async {
        let (mut there, mut back) = (pin!(there), pin!(back));
        tokio::select! {
            passed = &mut there => passed,
            passed = &mut back => match passed {
                // Bytes on their way would be lost with a connection that this side ends: the host does, when it has heard the end.
                Ok(()) => there.await,
                Err(_) => Passed::Ended,
            },
        }
    };
    tokio::select! {
        passed = both => passed,
        () = Twin::reset(twin.as_ref()) => Passed::Broken,
    }
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
        let relay = relay_in_frames(agent, ahead.freeze(), &port, async { true });
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
        let (passed, ()) = tokio::join!(relay, talk);
        assert_eq!(passed, Passed::Ended);
    }

    /// What becomes of a connection of which the host says this much, and whether that is all.
    async fn passed(said: &[(FrameKind, &[u8])], is_end: bool) -> (Passed, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut service, _) = listener.accept().await.unwrap();
        let (mut host, agent) = UnixStream::pair().unwrap();
        let mut frames = bytes::BytesMut::new();
        for (kind, payload) in said {
            encode_frame(&mut frames, *kind, payload).unwrap();
        }
        host.write_all(&frames).await.unwrap();
        drop(host);
        let passed = relay_in_frames(agent, Bytes::new(), &port, async { is_end }).await;
        drop(port);
        let mut heard = Vec::new();
        service.read_to_end(&mut heard).await.unwrap();
        (passed, heard)
    }

    #[tokio::test]
    async fn in_frames_an_end_counts_when_it_is_said_to_be_one() {
        let half = (FrameKind::Bytes, b"half".as_slice());
        let end = (FrameKind::End, b"".as_slice());
        assert_eq!(passed(&[half, end], true).await, (Passed::Ended, b"half".to_vec()));
        assert_eq!(passed(&[half], true).await, (Passed::Ended, b"half".to_vec()));
        for said in [&[half, end][..], &[half], &[half, (FrameKind::Stdout, b"x")]] {
            assert_eq!(passed(said, false).await, (Passed::Broken, b"half".to_vec()), "{said:?}");
        }
    }

    #[tokio::test]
    async fn in_frames_a_connection_that_breaks_inside_has_no_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (service, _) = listener.accept().await.unwrap();
        let (mut host, agent) = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_linger(&service, Some(Duration::ZERO)).unwrap();
        drop(service);
        assert_eq!(relay_in_frames(agent, Bytes::new(), &port, async { true }).await, Passed::Ended);
        let mut rest = Vec::new();
        host.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
    }
}
