use std::net::UdpSocket;

use sandbar_core::{
    Feature::{NetworkNone, NetworkOpen},
    Network, SandboxSpec,
};
use tokio::net::TcpListener;

use crate::{
    Context, Failure,
    Reach::Shell,
    Sandbox,
    failure::{ensure, ensure_eq},
    suite::cases,
};

cases! { "network";
    without_one_there_is_loopback_only [.needs(&[NetworkNone]).reach(&[Shell])],
    loopback_works [.reach(&[Shell])],
    without_one_the_hosts_listeners_are_not_reached [.needs(&[NetworkNone]).reach(&[Shell])],
    without_one_sandboxes_may_use_the_same_port [.needs(&[NetworkNone]).reach(&[Shell])],
    without_one_nothing_leaves [.needs(&[NetworkNone]).reach(&[Shell])],
    none_is_the_default_where_it_is_claimed [.needs(&[NetworkNone]).reach(&[Shell])],
    an_open_one_without_a_wall_reaches_the_host [.needs(&[NetworkOpen]).reach(&[Shell])],
    localhost_has_a_name [.needs(&[NetworkNone]).reach(&[Shell])],
}

async fn with(context: &Context, network: Network) -> Result<Sandbox, Failure> {
    let sandbox = context.sandbox_with(SandboxSpec { network, ..SandboxSpec::default() }).await?;
    sandbox.put_guest().await?;
    Ok(sandbox)
}

const INTERFACES: &str = "tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '";

async fn without_one_there_is_loopback_only(context: &Context) -> Result<(), Failure> {
    let sandbox = with(context, Network::None).await?;
    ensure_eq!(sandbox.text(INTERFACES).await?, "lo", "interfaces");
    Ok(())
}

async fn none_is_the_default_where_it_is_claimed(context: &Context) -> Result<(), Failure> {
    let sandbox = with(context, Network::Default).await?;
    ensure_eq!(sandbox.text(INTERFACES).await?, "lo", "interfaces");
    Ok(())
}

async fn loopback_works(context: &Context) -> Result<(), Failure> {
    let sandbox = with(context, Network::Default).await?;
    let server = sandbox.start_guest(&["echo", "127.0.0.1:18380"]).await?;
    let result = sandbox.guest(&["connect", "127.0.0.1:18380"]).await?;
    ensure_eq!(result.stdout_text(), "connected\n", "inside ({})", result.stderr_text());
    sandbox.kill(server.pid).await
}

/// An address of this host other than loopback, if it has one. Nothing is sent.
pub(super) fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

async fn without_one_the_hosts_listeners_are_not_reached(context: &Context) -> Result<(), Failure> {
    let sandbox = with(context, Network::None).await?;
    let listener = TcpListener::bind("0.0.0.0:0").await?;
    let port = listener.local_addr()?.port();
    for host in ["127.0.0.1".to_owned()].into_iter().chain(own_address()) {
        let result = sandbox.guest(&["connect", &format!("{host}:{port}")]).await?;
        ensure!(!result.status.success(), "the host's listener at {host} was reached");
    }
    Ok(())
}

async fn without_one_sandboxes_may_use_the_same_port(context: &Context) -> Result<(), Failure> {
    let one = with(context, Network::None).await?;
    let two = with(context, Network::None).await?;
    one.start_guest(&["echo", "127.0.0.1:18381"]).await?;
    two.start_guest(&["hello", "127.0.0.1:18381"]).await?;
    one.echoes(18381, b"to the first").await
}

async fn without_one_nothing_leaves(context: &Context) -> Result<(), Failure> {
    let sandbox = with(context, Network::None).await?;
    for address in ["192.0.2.1:80", "1.1.1.1:53", "169.254.169.254:80", "10.0.0.1:22"] {
        ensure!(!sandbox.guest(&["connect", address]).await?.status.success(), "{address} was reached");
    }
    Ok(())
}

async fn an_open_one_without_a_wall_reaches_the_host(context: &Context) -> Result<(), Failure> {
    if context.has(NetworkNone) {
        return Err(Failure::Ignored("its network is not the host's".to_owned()));
    }
    let sandbox = with(context, Network::Open).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let result = sandbox.guest(&["connect", &address]).await?;
    ensure_eq!(result.stdout_text(), "connected\n", "the host's listener ({})", result.stderr_text());
    Ok(())
}

async fn localhost_has_a_name(context: &Context) -> Result<(), Failure> {
    let sandbox = with(context, Network::None).await?;
    sandbox.text("grep -Eq '^127.0.0.1[[:space:]].*localhost' /etc/hosts").await?;
    Ok(())
}
