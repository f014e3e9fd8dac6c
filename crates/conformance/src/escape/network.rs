use std::{
    net::{TcpListener, UdpSocket},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
};

use sandbar_core::{
    Destination,
    Feature::{NetworkOpen, NetworkRules},
    Network, Policy, Protocol, RemoteHost, SandboxSpec, Wanted,
};

use super::canary::{Canary, attack_kernel, prey, prey_with};
use crate::{
    Context, Failure,
    Reach::{OwnMachine, Shell},
    Sandbox,
    failure::ensure,
    suite::cases,
};

cases! { "network";
    listeners_of_the_host_and_special_sockets_are_out_of_reach,
    an_open_network_brings_none_of_them_nearer [.needs(&[NetworkOpen, NetworkRules]).reach(&[Shell])],
}

async fn listeners_of_the_host_and_special_sockets_are_out_of_reach(context: &Context) -> Result<(), Failure> {
    reach_out(context, &prey(context).await?).await
}

async fn an_open_network_brings_none_of_them_nearer(context: &Context) -> Result<(), Failure> {
    let sandbox = prey_with(context, SandboxSpec { network: Network::Open, ..SandboxSpec::default() }).await?;
    let mut asking = sandbox.egress().await?;
    let mut asked = 0;
    // Whoever decides, by the policy as it is.
    let decide = async {
        loop {
            let question = asking.next().await?;
            asked += 1;
            let allowed = question.wanted.as_ref().is_some_and(is_open_to);
            ensure!(!allowed, "an open network allows {question:?}");
            asking.answer(question.id, allowed).await?;
        }
    };
    tokio::select! {
        tried = reach_out(context, &sandbox) => tried?,
        decided = decide => return decided,
    }
    ensure!(asked >= SPECIAL.len() - 1, "only {asked} questions were asked");
    Ok(())
}

/// Addresses that are not the internet's: of a host's neighbours, of the machines of clouds. The first is loopback in the clothes of IPv6, which is asked of nobody.
const SPECIAL: [&str; 6] =
    ["[::ffff:127.0.0.1]:80", "169.254.169.254:80", "[fd00:ec2::254]:80", "10.0.0.1:22", "192.168.0.1:80", "[::ffff:10.0.0.1]:22"];

fn is_open_to(wanted: &Wanted) -> bool {
    let (host, port, protocol) = match wanted {
        Wanted::Name(name) => return Policy::open().decide_name(name).allowed,
        Wanted::Connection(host, port) => (host, *port, Protocol::Tcp),
        Wanted::Datagrams(host, port) => (host, *port, Protocol::Udp),
    };
    match host {
        RemoteHost::Name(name) => Policy::open().decide_name(name).allowed,
        RemoteHost::Address(address) => {
            let is_own = own_address().is_some_and(|own| own == address.to_string());
            Policy::open().decide(&Destination { name: None, address: *address, is_own, port, protocol }).allowed
        }
    }
}

async fn reach_out(context: &Context, sandbox: &Sandbox) -> Result<(), Failure> {
    let mut canary = Canary::new(context)?;
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
    words.extend(SPECIAL.into_iter().flat_map(|address| ["tcp".to_owned(), address.to_owned()]));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // The agent's own socket, which is inside there; root may connect to it. And a machine's root may make any socket of its own kernel, which leads to its own devices.
    let own = if context.subject().reach.contains(&OwnMachine) { &["a ", "an "][..] } else { &["connect to the listed /dev/.wire/"] };
    attack_kernel(context, sandbox, &words, own).await?;
    drop((abstract_listener, path_listener, tcp));
    canary.is_untouched()
}

/// An address of this host other than loopback, if it has one. Nothing is sent.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}
