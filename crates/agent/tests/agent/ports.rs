//! Streams to ports inside.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    os::unix::net::UnixStream,
    thread,
};

use sandbar_protocol::{Dial, Event, Exec, WatchPorts, event, read_frame, request::Operation};

use crate::host::{Host, argv};

#[test]
fn bytes_go_both_ways_and_each_way_has_its_own_end() {
    let host = Host::new();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address) else { continue };
        let port = u32::from(listener.local_addr().unwrap().port());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut all = Vec::new();
            // The whole question, to its end, before the first byte of the answer.
            stream.read_to_end(&mut all).unwrap();
            all.reverse();
            stream.write_all(&all).unwrap();
        });
        let mut stream = host.done(Operation::Dial(Dial { port }));
        let question: Vec<u8> = (0..3_000_000_u32).map(|index| (index / 7) as u8).collect();
        stream.write_all(&question).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer.reverse();
        assert!(answer == question);
        server.join().unwrap();
    }
}

#[test]
fn the_end_of_the_server_reaches_a_client_that_has_not_ended() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    let mut stream = host.done(Operation::Dial(Dial { port }));
    let (mut server, _) = listener.accept().unwrap();
    server.write_all(b"hello").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
    stream.write_all(b"still there").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    text.clear();
    server.read_to_string(&mut text).unwrap();
    assert_eq!(text, "still there");
}

#[test]
fn a_host_that_leaves_closes_the_connection_inside() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    let mut stream = host.done(Operation::Dial(Dial { port }));
    let (server, _) = listener.accept().unwrap();
    let mut server = server;
    stream.write_all(b"last words").unwrap();
    drop(stream);
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
    // The other half is closed as well, though this side has not ended.
    crate::host::eventually("writing fails", || (&server).write_all(b"anybody?").is_err());
}

#[test]
fn a_port_where_nobody_listens_is_refused() {
    let host = Host::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    drop(listener);
    assert_eq!(host.refusal(Operation::Dial(Dial { port })).kind, "unavailable");
    assert_eq!(host.refusal(Operation::Dial(Dial { port: 0 })).kind, "invalid_input");
    assert_eq!(host.refusal(Operation::Dial(Dial { port: 65_536 })).kind, "invalid_input");
}

/// The next list of ports.
fn open_ports(stream: &mut UnixStream) -> Vec<u32> {
    let frame = read_frame(stream).unwrap().expect("another list");
    match frame.message::<Event>().unwrap().what {
        Some(event::What::Ports(told)) => told.ports,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_listens_is_told_where_it_is_a_command() {
    let host = Host::new();
    // The network is shared with this process, whose listeners are not the sandbox's.
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = host.done(Operation::WatchPorts(WatchPorts {}));
    assert_eq!(open_ports(&mut stream), []);
    let script = "import socket,sys; s=socket.create_server((\"127.0.0.1\",0)); print(s.getsockname()[1], flush=True); sys.stdin.read()";
    let mut session = host.exec(Exec { stdin: true, ..argv(&["python3", "-c", script]) });
    let port: u32 = session.wait_for("\n").trim().parse().unwrap();
    assert_eq!(open_ports(&mut stream), [port]);
    session.end();
    assert_eq!(open_ports(&mut stream), []);
    drop(own);
}
