//! Ports of a sandbox on this machine.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Case, Home, eventually};

const PYTHON: &[&str] = &["/usr/bin/python3"];

pub const CASES: &[Case] = &[
    Case::new("ports::listen_on_after_the_command_returned_and_until_unexpose", exposed).needs(PYTHON),
    Case::new("ports::http_and_websockets_pass_through", web).on(&["container-root", "container-rootless"]).needs(PYTHON),
    Case::new("ports::end_with_the_sandbox", with_the_sandbox).needs(PYTHON),
    Case::new("ports::a_taken_address_is_refused", taken),
    Case::new("ports::who_cannot_be_passed_on_is_reset", reset),
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

/// Answers a page over a connection that is kept, and says back what comes over a WebSocket (RFC 6455).
const WEB_SERVER: &str = "
import base64, hashlib, http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        key = self.headers.get('Sec-WebSocket-Key')
        if not key:
            self.send_response(200); self.send_header('Content-Length', '5'); self.end_headers(); self.wfile.write(b'page\\n'); return
        accept = base64.b64encode(hashlib.sha1((key + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11').encode()).digest()).decode()
        self.send_response(101); self.send_header('Upgrade', 'websocket'); self.send_header('Connection', 'Upgrade')
        self.send_header('Sec-WebSocket-Accept', accept); self.end_headers()
        while True:
            first, length = self.rfile.read(2)
            mask = self.rfile.read(4)
            data = bytes(byte ^ mask[index % 4] for index, byte in enumerate(self.rfile.read(length & 127)))
            self.wfile.write(bytes([first, len(data)]) + data)
            if first & 15 == 8: self.close_connection = True; return
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler)
print('ready', flush=True)
server.serve_forever()
";

fn web(home: &Home) {
    let id = home.create(&[]);
    let port = serve_with(home, &id, WEB_SERVER);
    let address = home.ok(&["expose", &id, &port]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::new();
        for _ in 0..3 {
            let page = client.get(format!("http://{address}/")).send().await.unwrap();
            assert_eq!((page.status().as_u16(), page.text().await.unwrap().as_str()), (200, "page\n"));
        }
        let (mut socket, answer) = tokio_tungstenite::connect_async(format!("ws://{address}/")).await.unwrap();
        assert_eq!(answer.status().as_u16(), 101);
        for said in ["first", "second"] {
            socket.send(Message::text(said)).await.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(said));
        }
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    });
}

/// A server inside, on a port that no other test has: `dangerous-host` has no network of its own.
fn serve(home: &Home, id: &str) -> String {
    serve_with(home, id, SERVER)
}

fn serve_with(home: &Home, id: &str, server: &str) -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let pid = home.ok(&["exec", "-d", id, "--", "/usr/bin/python3", "-c", server, &free]);
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

/// An end would be taken for an answer of nothing.
fn reset(home: &Home) {
    let id = home.create(&[]);
    let address: SocketAddr = home.ok(&["expose", &id, "4"]).parse().unwrap();
    let answer = TcpStream::connect(address).and_then(|mut client| client.read(&mut [0]));
    assert_eq!(answer.map_err(|error| error.kind()), Err(ErrorKind::ConnectionReset));
}

fn taken(home: &Home) {
    let id = home.create(&[]);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let refused = home.sandbar(&["expose", &id, "80", "--listen", &address]);
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.stderr.contains(&address), "{refused}");
}
