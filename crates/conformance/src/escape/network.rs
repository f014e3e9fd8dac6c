use std::{
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
};

use super::canary::{Canary, attack_kernel, prey};
use crate::{Context, Failure, suite::cases};

cases! { "network";
    listeners_of_the_host_and_special_sockets_are_out_of_reach,
}

async fn listeners_of_the_host_and_special_sockets_are_out_of_reach(context: &Context) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
    let sandbox = prey(context).await?;
    // None of them is ever accepted from: a connection that the kernel makes is finding enough.
    let name = format!("sandbar-conformance-{}", canary.secret);
    let abstract_listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    // A folder of its own with a short name: the address of such a socket has 108 bytes.
    let folder = tempfile::Builder::new().prefix("sandbar-").tempdir()?;
    let path = folder.path().join("listener");
    let path_listener = UnixListener::bind(&path)?;
    let tcp = TcpListener::bind("0.0.0.0:0")?;
    let port = tcp.local_addr()?.port();
    let path = path.display().to_string();
    let mut words =
        vec!["network".to_owned(), "abstract".to_owned(), name, "unix".to_owned(), path, "tcp".to_owned(), format!("127.0.0.1:{port}")];
    if let Some(address) = own_address() {
        words.extend(["tcp".to_owned(), format!("{address}:{port}")]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // The agent's own socket, which is inside there; root may connect to it.
    attack_kernel(context, &sandbox, &words, &["connect to the listed /dev/.wire/"]).await?;
    drop((abstract_listener, path_listener, tcp));
    canary.is_untouched()
}

/// An address of this host other than loopback, if it has one. Nothing is sent.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}
