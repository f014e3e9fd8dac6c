use std::{
    io::ErrorKind as ErrorOfIo,
    net::{Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU8, Ordering},
};

use sandbar_core::{ErrorKind, Feature::ExposePort};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    Context, Failure, Sandbox,
    failure::{ensure, ensure_eq, refused},
    sandbox::SOON,
    suite::cases,
};

cases! { "expose";
    a_free_port_listens_and_passes_bytes [.needs(&[ExposePort])],
    the_address_asked_for_is_taken [.needs(&[ExposePort])],
    many_clients_are_served_at_once [.needs(&[ExposePort])],
    shutting_down_one_way_leaves_the_other_open [.needs(&[ExposePort])],
    exposing_twice_is_refused [.needs(&[ExposePort])],
    an_address_that_is_taken_is_refused [.needs(&[ExposePort])],
    unexposing_closes_the_listener_and_its_connections [.needs(&[ExposePort])],
    the_listener_is_closed_when_unexposing_returns [.needs(&[ExposePort])],
    unexposing_what_is_not_exposed_is_not_found [.needs(&[ExposePort])],
    a_client_is_let_go_when_nothing_listens_inside [.needs(&[ExposePort])],
    it_may_be_exposed_before_anything_listens [.needs(&[ExposePort])],
    it_ends_with_the_sandbox [.needs(&[ExposePort])],
    port_zero_inside_is_refused [.needs(&[ExposePort])],
}

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

async fn serving(context: &Context, port: u16) -> Result<Sandbox, Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    sandbox.start_guest(&["echo", &format!("127.0.0.1:{port}")]).await?;
    Ok(sandbox)
}

async fn echoes(address: SocketAddr, message: &[u8]) -> Result<(), Failure> {
    let talk = async {
        let mut client = TcpStream::connect(address).await?;
        client.write_all(message).await?;
        client.shutdown().await?;
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await?;
        ensure_eq!(answer, message, "the echo");
        Ok(())
    };
    timeout(SOON, talk).await?
}

async fn a_free_port_listens_and_passes_bytes(context: &Context) -> Result<(), Failure> {
    let sandbox = serving(context, 18180).await?;
    let exposed = sandbox.expose_port(18180, ANY).await?;
    ensure_eq!((exposed.port, exposed.listen.ip()), (18180, ANY.ip()), "what was exposed");
    ensure!(exposed.listen.port() != 0, "no port was taken");
    echoes(exposed.listen, b"GET / HTTP/1.1\r\n\r\n").await?;
    echoes(exposed.listen, &[0, 255, 13, 10]).await
}

async fn the_address_asked_for_is_taken(context: &Context) -> Result<(), Failure> {
    let sandbox = serving(context, 18181).await?;
    let free = TcpListener::bind(address_of_its_own()).await?.local_addr()?;
    ensure_eq!(sandbox.expose_port(18181, free).await?.listen, free, "the address");
    echoes(free, b"there").await
}

async fn many_clients_are_served_at_once(context: &Context) -> Result<(), Failure> {
    let sandbox = serving(context, 18182).await?;
    let exposed = sandbox.expose_port(18182, ANY).await?;
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(TcpStream::connect(exposed.listen).await?);
    }
    for (index, client) in clients.iter_mut().enumerate().rev() {
        client.write_all(&[index as u8]).await?;
        ensure_eq!(timeout(SOON, client.read_u8()).await??, index as u8, "client {index}");
    }
    Ok(())
}

async fn shutting_down_one_way_leaves_the_other_open(context: &Context) -> Result<(), Failure> {
    let sandbox = serving(context, 18183).await?;
    let exposed = sandbox.expose_port(18183, ANY).await?;
    echoes(exposed.listen, &vec![7; 3 << 20][..100_000]).await?;
    echoes(exposed.listen, b"").await
}

async fn exposing_twice_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = serving(context, 18184).await?;
    let exposed = sandbox.expose_port(18184, ANY).await?;
    refused("the second", sandbox.expose_port(18184, ANY).await, &[ErrorKind::AlreadyExists])?;
    echoes(exposed.listen, b"the first goes on").await
}

async fn an_address_that_is_taken_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = serving(context, 18185).await?;
    let taken = TcpListener::bind(ANY).await?;
    refused("a taken address", sandbox.expose_port(18185, taken.local_addr()?).await, &[ErrorKind::AlreadyExists])?;
    echoes(sandbox.expose_port(18185, ANY).await?.listen, b"another").await
}

/// A loopback address that nobody else uses. On 127.0.0.1 a port that was just closed may belong to another case already, or a client may connect to
/// itself.
fn address_of_its_own() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed)], 0))
}

async fn unexposing_closes_the_listener_and_its_connections(context: &Context) -> Result<(), Failure> {
    let sandbox = serving(context, 18186).await?;
    let exposed = sandbox.expose_port(18186, address_of_its_own()).await?;
    let mut open = TcpStream::connect(exposed.listen).await?;
    open.write_all(b"x").await?;
    timeout(SOON, open.read_u8()).await??;
    sandbox.unexpose_port(18186).await?;
    ensure!(timeout(SOON, TcpStream::connect(exposed.listen)).await?.is_err(), "the listener is still there");
    let rest = timeout(SOON, open.read(&mut [0; 1])).await.map_err(|_| Failure::new("an open connection is not closed"))?;
    ensure!(matches!(rest, Ok(0) | Err(_)), "an open connection carries more");
    refused("once more", sandbox.unexpose_port(18186).await, &[ErrorKind::NotFound])?;
    echoes(sandbox.expose_port(18186, ANY).await?.listen, b"again").await
}

async fn the_listener_is_closed_when_unexposing_returns(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let address = address_of_its_own();
    for round in 0..40 {
        let exposed = sandbox.expose_port(18191, address).await?;
        sandbox.unexpose_port(18191).await?;
        let again = TcpListener::bind(exposed.listen).await;
        ensure!(again.is_ok(), "round {round}: the address is still taken");
    }
    Ok(())
}

async fn unexposing_what_is_not_exposed_is_not_found(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("unexpose", sandbox.unexpose_port(18187).await, &[ErrorKind::NotFound])?;
    Ok(())
}

async fn a_client_is_let_go_when_nothing_listens_inside(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let exposed = sandbox.expose_port(18188, ANY).await?;
    for _ in 0..3 {
        let mut client = match TcpStream::connect(exposed.listen).await {
            // The reset may come before the client has looked.
            Err(error) if error.kind() == ErrorOfIo::ConnectionReset => continue,
            connected => connected?,
        };
        let end = timeout(SOON, client.read(&mut [0; 1])).await.map_err(|_| Failure::new("the client waits for ever"))?;
        ensure!(matches!(end, Ok(0) | Err(_)), "somebody answered");
    }
    Ok(())
}

async fn it_may_be_exposed_before_anything_listens(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let exposed = sandbox.expose_port(18189, ANY).await?;
    drop(TcpStream::connect(exposed.listen).await);
    sandbox.put_guest().await?;
    sandbox.start_guest(&["echo", "127.0.0.1:18189"]).await?;
    echoes(exposed.listen, b"now").await
}

async fn it_ends_with_the_sandbox(context: &Context) -> Result<(), Failure> {
    let sandbox = serving(context, 18190).await?;
    let exposed = sandbox.expose_port(18190, address_of_its_own()).await?;
    let mut open = TcpStream::connect(exposed.listen).await?;
    open.write_all(b"x").await?;
    timeout(SOON, open.read_u8()).await??;
    context.destroy(&sandbox).await?;
    ensure!(timeout(SOON, TcpStream::connect(exposed.listen)).await?.is_err(), "the listener outlived the sandbox");
    let end = timeout(SOON, open.read(&mut [0; 1])).await.map_err(|_| Failure::new("a connection outlived the sandbox"))?;
    ensure!(matches!(end, Ok(0) | Err(_)), "somebody answered");
    Ok(())
}

async fn port_zero_inside_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("port 0", sandbox.expose_port(0, ANY).await, &[ErrorKind::InvalidInput])?;
    Ok(())
}
