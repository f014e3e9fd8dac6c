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

/// Asks about each connection that comes, and passes on those that may leave.
pub(super) async fn run(host: Rc<Host>, listener: Watched) {
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
                    () = pass(&host, &stream, peer) => {}
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

async fn pass(host: &Host, stream: &TcpStream, peer: SocketAddr) {
    // Whoever connects to the listener itself wanted to go nowhere.
    let Some(destination) = original(stream).filter(|destination| stream.local_addr().is_ok_and(|own| own != *destination)) else {
        return reset(stream);
    };
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

/// Where it was to go before it was redirected.
fn original(stream: &TcpStream) -> Option<SocketAddr> {
    match stream.local_addr().ok()? {
        SocketAddr::V4(_) => sockopt::ip_original_dst(stream).ok().map(SocketAddr::V4),
        SocketAddr::V6(_) => sockopt::ipv6_original_dst(stream).ok().map(SocketAddr::V6),
    }
}

/// Refused, at once: a reset, and nothing that could be taken for a whole answer.
fn reset(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}
