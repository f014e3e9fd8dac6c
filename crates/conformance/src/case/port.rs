use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use sandbar_core::ErrorKind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    Context, Failure,
    Reach::Shell,
    failure::{ensure, ensure_eq, refused},
    sandbox::{SOON, noise},
    stream::read_until,
    suite::cases,
};

cases! { "port";
    a_connection_carries_bytes_both_ways,
    shutting_down_one_way_leaves_the_other_open,
    a_listener_on_ipv6_is_reached [.reach(&[Shell])],
    a_listener_on_every_address_is_reached [.reach(&[Shell])],
    nothing_listening_is_unavailable,
    port_zero_is_refused,
    many_connections_live_at_the_same_time,
    large_transfers_are_complete,
    the_far_side_may_close_first [.reach(&[Shell])],
    a_reader_that_stops_holds_the_far_side_back [.reach(&[Shell])],
    a_dropped_connection_is_closed_inside [.reach(&[Shell])],
    it_is_open_only_inside [.reach(&[Shell])],
    who_listens_is_told_as_it_begins_and_ends [.reach(&[Shell])],
}

/// A port that no other case of this run listens on, at any address: sandboxes of `dangerous-host` share the host's. Another user's cases run in a
/// process of their own, at the same time.
fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = if rustix::process::geteuid().is_root() { 18_600 } else { 20_600 };
    first + NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn a_connection_carries_bytes_both_ways(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let port = fresh_port();
    let server = sandbox.start_guest(&["echo", &format!("127.0.0.1:{port}")]).await?;
    let mut connection = sandbox.connect_port(port).await?;
    for round in 0..20u8 {
        let message = [round; 100];
        connection.write_all(&message).await?;
        connection.flush().await?;
        let mut answer = [0; 100];
        timeout(SOON, connection.read_exact(&mut answer)).await??;
        ensure_eq!(answer, message, "round {round}");
    }
    sandbox.kill(server.pid).await
}

async fn shutting_down_one_way_leaves_the_other_open(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let port = fresh_port();
    let server = sandbox.start_guest(&["echo", &format!("127.0.0.1:{port}")]).await?;
    timeout(SOON, sandbox.echoes(port, b"all of it")).await??;
    timeout(SOON, sandbox.echoes(port, b"")).await??;
    sandbox.kill(server.pid).await
}

async fn a_listener_on_ipv6_is_reached(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    if !sandbox.shell("test -e /proc/net/if_inet6 && grep -q ' lo$' /proc/net/if_inet6").await?.status.success() {
        return Err(Failure::Ignored("its loopback has no IPv6".to_owned()));
    }
    sandbox.put_guest().await?;
    let port = fresh_port();
    let server = sandbox.start_guest(&["echo", &format!("[::1]:{port}")]).await?;
    timeout(SOON, sandbox.echoes(port, b"six")).await??;
    sandbox.kill(server.pid).await
}

async fn a_listener_on_every_address_is_reached(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let port = fresh_port();
    let server = sandbox.start_guest(&["echo", &format!("0.0.0.0:{port}")]).await?;
    timeout(SOON, sandbox.echoes(port, b"any")).await??;
    sandbox.kill(server.pid).await
}

async fn nothing_listening_is_unavailable(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    let port = fresh_port();
    refused("a connection", timeout(SOON, sandbox.connect_port(port)).await?.map(drop), &[ErrorKind::Unavailable])?;
    Ok(())
}

async fn port_zero_is_refused(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    refused("port 0", sandbox.connect_port(0).await.map(drop), &[ErrorKind::InvalidInput])?;
    Ok(())
}

async fn many_connections_live_at_the_same_time(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let port = fresh_port();
    let server = sandbox.start_guest(&["echo", &format!("127.0.0.1:{port}")]).await?;
    let mut connections = Vec::new();
    for _ in 0..60 {
        connections.push(sandbox.connect_port(port).await?);
    }
    for (index, connection) in connections.iter_mut().enumerate().rev() {
        connection.write_all(&[index as u8]).await?;
        connection.flush().await?;
        ensure_eq!(timeout(SOON, connection.read_u8()).await??, index as u8, "connection {index}");
    }
    sandbox.kill(server.pid).await
}

async fn who_listens_is_told_as_it_begins_and_ends(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let (first, second) = (fresh_port(), fresh_port());
    let there_before = sandbox.start_guest(&["echo", &format!("127.0.0.1:{first}")]).await?;
    let mut ports = sandbox.watch_ports().await?;
    // Nothing else listens inside: neither the agent, nor, where the network is the host's, what the host has.
    ensure_eq!(timeout(SOON, ports.next()).await??, BTreeSet::from([first]), "one was there before");
    let later = sandbox.start_guest(&["echo", &format!("0.0.0.0:{second}")]).await?;
    ensure_eq!(timeout(SOON, ports.next()).await??, BTreeSet::from([first, second]), "another began");
    // A connection is no listener.
    timeout(SOON, sandbox.echoes(second, b"told")).await??;
    sandbox.kill(there_before.pid).await?;
    ensure_eq!(timeout(SOON, ports.next()).await??, BTreeSet::from([second]), "the first has ended");
    sandbox.kill(later.pid).await?;
    ensure_eq!(timeout(SOON, ports.next()).await??, BTreeSet::new(), "both have ended");
    Ok(())
}

async fn large_transfers_are_complete(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let port = fresh_port();
    let server = sandbox.start_guest(&["echo", &format!("127.0.0.1:{port}")]).await?;
    let bytes = noise(24 << 20, 12);
    let (mut reader, mut writer) = tokio::io::split(sandbox.connect_port(port).await?);
    let sent = bytes.clone();
    let sender = tokio::spawn(async move {
        writer.write_all(&sent).await?;
        writer.shutdown().await
    });
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).await?;
    sender.await??;
    ensure!(answer == bytes, "{} bytes went out, {} others came back", bytes.len(), answer.len());
    sandbox.kill(server.pid).await
}

async fn the_far_side_may_close_first(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let port = fresh_port();
    let server = sandbox.start_guest(&["hello", &format!("127.0.0.1:{port}")]).await?;
    let mut text = String::new();
    timeout(SOON, sandbox.connect_port(port).await?.read_to_string(&mut text)).await??;
    ensure_eq!(text, "hello\n", "what was said before it closed");
    sandbox.kill(server.pid).await
}

async fn a_reader_that_stops_holds_the_far_side_back(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let port = fresh_port();
    let mut server = sandbox.start_guest(&["flood", &format!("127.0.0.1:{port}")]).await?;
    let mut connection = sandbox.connect_port(port).await?;
    connection.read_u8().await?;
    // The server says how much was taken after each block; it stops when the buffers on the way are full.
    crate::stream::drain(&mut server, Duration::from_secs(1)).await?;
    let before = sandbox.process(server.pid).await?.output_end;
    let mut block = vec![0; 32 << 20];
    timeout(SOON * 2, connection.read_exact(&mut block)).await??;
    read_until(&mut server, "\n").await?;
    ensure!(sandbox.process(server.pid).await?.output_end > before, "the far side does not go on");
    drop(server.output);
    sandbox.kill(server.pid).await
}

async fn a_dropped_connection_is_closed_inside(context: &Context) -> Result<(), Failure> {
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let port = fresh_port();
    let server = sandbox.start_guest(&["echo", &format!("127.0.0.1:{port}")]).await?;
    for _ in 0..20 {
        drop(sandbox.connect_port(port).await?);
    }
    // 01 is ESTABLISHED.
    sandbox.until(&format!("! grep -qi ':{port:04X} [0-9A-F]*:[0-9A-F]* 01' /proc/net/tcp")).await?;
    sandbox.kill(server.pid).await
}

async fn it_is_open_only_inside(context: &Context) -> Result<(), Failure> {
    use sandbar_core::Feature;

    if context.has(Feature::NetworkOpen) && !context.has(Feature::NetworkNone) {
        return Err(Failure::Ignored("its network is the host's".to_owned()));
    }
    let sandbox = context.sandbox().await?;
    sandbox.put_guest().await?;
    let port = fresh_port();
    let server = sandbox.start_guest(&["echo", &format!("0.0.0.0:{port}")]).await?;
    let outside = timeout(SOON, tokio::net::TcpStream::connect(("127.0.0.1", port))).await?;
    ensure!(outside.is_err(), "a port inside is reached from the host without being exposed");
    sandbox.kill(server.pid).await
}
