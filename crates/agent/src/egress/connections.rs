use std::{
    io,
    net::{SocketAddr, TcpStream as StdStream},
    os::fd::OwnedFd,
    rc::Rc,
    time::Duration,
};

use rustix::net::{SocketFlags, sockopt};
use tokio::{io::Interest, net::TcpStream};

use super::{
    claim,
    host::{Host, Left},
    redirect::TCP,
};
use crate::{
    dial::{self, Passed},
    watched::Watched,
};

/// How long accepting rests when descriptors or memory have run out.
const REST: Duration = Duration::from_millis(100);

/// Where a connection was to go that has come.
#[derive(Debug, Clone, Copy)]
pub(super) enum Destination {
    /// Somewhere else: it was redirected, and the kernel knows.
    Original,
    /// Where it has come to.
    Own,
}

/// Asks about each connection that comes, and passes on those that may leave.
pub(super) async fn run(host: Rc<Host>, listener: Watched, destination: Destination) {
    loop {
        let Some((stream, peer)) = next(&listener).await else { continue };
        // Whoever is over the bound is refused, and so is who comes while nothing may be open.
        let Some(place) = host.enter() else {
            reset(&stream);
            continue;
        };
        let host = Rc::clone(&host);
        tokio::task::spawn_local(async move {
            let cut = host.cut.notified();
            if !host.is_quiet() {
                tokio::select! {
                    biased;
                    () = cut => reset(&stream),
                    () = pass(&host, &stream, peer, destination) => {}
                }
            } else {
                reset(&stream);
            }
            // In this order: once there is nobody in, nothing is open.
            drop(stream);
            drop(place);
        });
    }
}

/// The next connection; `None` when there was none after all.
pub(super) async fn next(listener: &Watched) -> Option<(TcpStream, SocketAddr)> {
    let accept = |listener: &OwnedFd| Ok(rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?);
    match listener.async_io(Interest::READABLE, accept).await {
        Ok(socket) => {
            let stream = StdStream::from(socket);
            let peer = stream.peer_addr().ok()?;
            Some((TcpStream::from_std(stream).ok()?, peer))
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => None,
        Err(_) => {
            tokio::time::sleep(REST).await;
            None
        }
    }
}

async fn pass(host: &Host, stream: &TcpStream, peer: SocketAddr, destination: Destination) {
    let Some(destination) = destination.of(stream) else { return reset(stream) };
    let _ = stream.set_nodelay(true);
    let process = claim::of(TCP, peer, destination).await;
    match host.connect(destination, process).await {
        Some(Left { remote, ahead, revoked, ended, id }) => {
            // A host that goes takes the way along by which it would have said so.
            let is_end = async { ended.await.is_ok() };
            let relay = async {
                if host.is_on_vsock {
                    dial::relay_in_frames(remote, ahead, stream, is_end).await
                } else {
                    dial::relay(remote, ahead, stream, is_end).await
                }
            };
            tokio::select! {
                biased;
                Ok(()) = revoked => reset(stream),
                passed = relay => if passed == Passed::Broken {
                    reset(stream);
                },
            }
            host.forget(id);
        }
        None => reset(stream),
    }
}

impl Destination {
    /// `None` for one to the listener itself, which wanted to go nowhere.
    fn of(self, stream: &TcpStream) -> Option<SocketAddr> {
        let own = stream.local_addr().ok()?;
        match (self, own) {
            (Self::Original, SocketAddr::V4(_)) => {
                sockopt::ip_original_dst(stream).ok().map(SocketAddr::V4).filter(|original| *original != own)
            }
            (Self::Original, SocketAddr::V6(_)) => {
                sockopt::ipv6_original_dst(stream).ok().map(SocketAddr::V6).filter(|original| *original != own)
            }
            (Self::Own, _) => Some(own).filter(|own| !own.ip().is_loopback()),
        }
    }
}

/// Refused, at once: a reset, and nothing that could be taken for a whole answer.
fn reset(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_to_the_listener_itself_was_to_go_nowhere() {
        for address in ["127.0.0.1:0", "127.9.9.9:0", "[::1]:0"] {
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            let connecting = TcpStream::connect(listener.local_addr().unwrap());
            let (client, accepted) = tokio::join!(connecting, listener.accept());
            client.unwrap();
            let stream = accepted.unwrap().0;
            assert_eq!((Destination::Original.of(&stream), Destination::Own.of(&stream)), (None, None), "{address}");
        }
    }
}
