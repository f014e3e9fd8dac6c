use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};

use super::{
    claim,
    host::{Host, Left},
};
use crate::dial;

/// How long accepting rests when descriptors or memory have run out.
const REST: Duration = Duration::from_millis(100);

/// Asks about each connection that comes, and passes on those that may leave.
pub(super) async fn run(host: Rc<Host>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => drop(tokio::task::spawn_local(pass(Rc::clone(&host), stream, peer))),
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {}
            Err(_) => tokio::time::sleep(REST).await,
        }
    }
}

async fn pass(host: Rc<Host>, stream: TcpStream, peer: SocketAddr) {
    // Whoever connects to the listener itself wanted to go nowhere.
    let Some(destination) = original(&stream).filter(|destination| stream.local_addr().is_ok_and(|own| own != *destination)) else {
        return reset(&stream);
    };
    let name = match destination.ip() {
        IpAddr::V4(address) => host.names.borrow().name(address).map(ToOwned::to_owned),
        IpAddr::V6(_) => None,
    };
    let _ = stream.set_nodelay(true);
    let process = claim::of(peer).await;
    match host.connect(name, destination.ip(), destination.port(), process).await {
        Some(Left { remote, ahead, revoked, id }) => {
            tokio::select! {
                biased;
                Ok(()) = revoked => reset(&stream),
                () = dial::relay(remote, ahead, &stream) => {}
            }
            host.forget(id);
        }
        None => reset(&stream),
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
