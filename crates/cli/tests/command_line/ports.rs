//! Ports of a sandbox on this machine.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use crate::support::{Case, Home, eventually};

const PYTHON: &[&str] = &["/usr/bin/python3"];

pub const CASES: &[Case] = &[
    Case::new("ports::listen_on_after_the_command_returned_and_until_unexpose", exposed).needs(PYTHON),
    Case::new("ports::end_with_the_sandbox", with_the_sandbox).needs(PYTHON),
    Case::new("ports::a_taken_address_is_refused", taken),
];

/// Reads all there is, and only after its end answers in capitals.
const SERVER: &str = "
import socket, sys, threading
server = socket.create_server(('127.0.0.1', int(sys.argv[1])))
print('ready', flush=True)
def serve(connection):
    data = b''
    while piece := connection.recv(65536):
        data += piece
    connection.sendall(data.upper())
    connection.close()
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
";

/// A server inside, on a port that no other test has: `dangerous-host` has no network of its own.
fn serve(home: &Home, id: &str) -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let pid = home.ok(&["exec", "-d", id, "--", "/usr/bin/python3", "-c", SERVER, &free]);
    let mut logs = home.start(&["logs", "-f", id, &pid]);
    logs.wait_for_line("ready");
    logs.signal(rustix::process::Signal::KILL);
    logs.finish();
    free
}

fn echo(address: SocketAddr, data: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(data)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn exposed(home: &Home) {
    let id = home.create(&[]);
    let port = serve(home, &id);
    let address: SocketAddr = home.ok(&["expose", &id, &port]).parse().unwrap();
    assert!(address.ip().is_loopback());
    assert_eq!(echo(address, b"hello").unwrap(), b"HELLO");
    let big = vec![b'a'; 8 << 20];
    assert!(echo(address, &big).unwrap() == vec![b'A'; 8 << 20]);
    let listed = home.json(&["ls", "--json"]);
    assert_eq!(listed[0]["ports"][0]["listen"], address.to_string());
    let twice = home.sandbar(&["expose", &id, &port]);
    assert_eq!(twice.code, 125, "{twice}");
    home.ok(&["unexpose", &id, &port]);
    assert!(TcpStream::connect(address).is_err());
    assert_eq!(home.sandbar(&["unexpose", &id, &port]).code, 125);
}

fn with_the_sandbox(home: &Home) {
    let id = home.create(&[]);
    let port = serve(home, &id);
    let address: SocketAddr = home.ok(&["expose", &id, &port]).parse().unwrap();
    assert_eq!(echo(address, b"x").unwrap(), b"X");
    home.ok(&["rm", "-f", &id]);
    eventually("nothing listens", || TcpStream::connect(address).is_err());
}

fn taken(home: &Home) {
    let id = home.create(&[]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let refused = home.sandbar(&["expose", &id, "80", "--listen", &address]);
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.stderr.contains(&address), "{refused}");
}
