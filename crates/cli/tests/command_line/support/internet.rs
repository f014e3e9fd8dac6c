//! What the tests of egress take for the internet: a network namespace that owns every address, with servers that tell what reaches them.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Child, Command, Stdio},
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use super::welcome;

/// Set for the process that is the internet.
pub const ROLE: &str = "SANDBAR_TEST_INTERNET";
/// The name server of the host.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(9, 9, 9, 9);
/// What `allowed.test` and, the first time, `rebind.test` mean.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 215, 14);
/// Where a sandbox may ask beside it.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)), IpAddr::V6(Ipv6Addr::new(0x2001, 0x4860, 0x4860, 0, 0, 0, 0, 0x8888))];
/// What `v6.test` means.
pub const PUBLIC_V6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0, 0, 0x1111);

/// Addresses of the host that look like the internet's: one, the second one of a network, for which a socket has the first one as its own, and one of IPv6.
pub const OWN: Ipv4Addr = Ipv4Addr::new(93, 184, 217, 1);
pub const OWN_SECOND: Ipv4Addr = Ipv4Addr::new(93, 184, 217, 5);
pub const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x4700, 0, 0, 0, 0, 0, 0x9999);

/// Nobody else connects to this address: a connection to it is closed, and not told.
const FENCE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// A datagram that is answered with itself, and not told.
const FENCE_WORD: &[u8] = b"is all told?";
/// What listens, by TCP and by UDP.
static PORTS: Mutex<Vec<u16>> = Mutex::new(Vec::new());
static SOCKETS: Mutex<Vec<SocketAddr>> = Mutex::new(Vec::new());

/// Is the internet, if this process was started as such: with a folder that has `key.pem` and `cert.pem`. Ends with its standard input, each
/// line of which it says again when all is told that came before.
pub fn serve_if_asked() -> bool {
    let Some(folder) = std::env::var_os(ROLE) else { return false };
    let mut lines = io::stdin().lines();
    say("up");
    lines.next().unwrap().unwrap();
    dns();
    datagrams();
    on(80, http);
    on(22, |stream, _| {
        let _ = stream.try_clone().unwrap().write_all(b"SSH-2.0-test\r\n");
        let _ = echo(stream);
    });
    on(53, |_, _| {});
    on(7000, |stream, address| {
        if echo(stream).is_err() {
            say(&format!("reset {address} 7000"));
        }
    });
    on(7001, broken);
    on(7004, zeros);
    on(7005, |stream, address| match echo(stream) {
        Ok(()) => say(&format!("end {address} 7005")),
        Err(_) => say(&format!("reset {address} 7005")),
    });
    // Nobody reads.
    on(7007, |stream, _| {
        thread::park();
        drop(stream);
    });
    on(7006, |stream, address| drop(kept_http(stream, address)));
    // It hears everything, and says nothing.
    on(7008, |mut stream, address| {
        let heard = io::copy(&mut stream, &mut io::sink());
        say(&format!("{} {address} 7008", if heard.is_ok() { "end" } else { "reset" }));
    });
    welcome::begin(std::path::Path::new(&folder), say);
    let mut tls = Command::new("setpriv");
    tls.args(["--pdeathsig", "KILL", "openssl", "s_server", "-quiet", "-www", "-accept", "443", "-key", "key.pem", "-cert", "cert.pem"]);
    let mut tls: Child = tls.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, 443)).is_err() {
        assert!(tls.try_wait().unwrap().is_none(), "openssl has ended");
        thread::sleep(Duration::from_millis(5));
    }
    say("serving");
    for line in lines.map_while(Result::ok) {
        fence();
        say(&line);
    }
    let _ = tls.kill();
    let _ = tls.wait();
    true
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Waits until everything is told that waits at the servers' sockets: each takes what comes in its order, and tells of it first.
fn fence() {
    for port in &*PORTS.lock().unwrap() {
        let mut stream = TcpStream::connect((FENCE, *port)).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    for server in &*SOCKETS.lock().unwrap() {
        let own: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let ends = UdpSocket::bind((own, 0)).unwrap();
        ends.connect(server).unwrap();
        ends.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        ends.send(FENCE_WORD).unwrap();
        assert_eq!(ends.recv(&mut [0; FENCE_WORD.len()]).unwrap(), FENCE_WORD.len());
    }
}

/// A socket of the servers'.
fn datagram_socket(address: IpAddr, port: u16) -> UdpSocket {
    let socket = UdpSocket::bind((address, port)).unwrap();
    SOCKETS.lock().unwrap().push(socket.local_addr().unwrap());
    socket
}

/// The next datagram, if it is one to be told of. What could not be answered was refused, which is told here as well.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    let (length, from) = socket.recv_from(buffer).ok()?;
    if buffer[..length] != *FENCE_WORD {
        return Some((length, from));
    }
    let _ = socket.send_to(FENCE_WORD, from);
    None
}

/// Serves a port at every address, and tells of each connection where it went to.
fn on(port: u16, serve: fn(TcpStream, IpAddr)) {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    // As many as come at once.
    rustix::net::listen(&listener, 4096).unwrap();
    PORTS.lock().unwrap().push(port);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let address = stream.local_addr().unwrap().ip().to_canonical();
            if address == FENCE {
                continue;
            }
            say(&format!("tcp {address} {port}"));
            thread::spawn(move || serve(stream, address));
        }
    });
}

fn http(mut stream: TcpStream, address: IpAddr) {
    let mut host = String::new();
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let Ok(line) = line else { return };
        if line.is_empty() {
            break;
        }
        if let Some((_, value)) = line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("host")) {
            host = value.to_owned();
        }
    }
    let body = format!("you reached {address} as {host}\n");
    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
}

/// Answers request after request, tells for whom each was, and lets itself be connected through, to nobody but itself.
fn kept_http(mut stream: TcpStream, address: IpAddr) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    loop {
        let (Some(first), mut host) = (lines.next().transpose()?, "nobody".to_owned()) else { return Ok(()) };
        while let Some(line) = lines.next().transpose()?.filter(|line| !line.is_empty()) {
            if let Some((_, value)) = line.split_once(": ").filter(|(name, _)| name.eq_ignore_ascii_case("host")) {
                host = value.to_owned();
            }
        }
        say(&format!("request {host}"));
        if first.starts_with("CONNECT ") {
            write!(stream, "HTTP/1.1 200 Connected\r\n\r\n")?;
            return echo(stream);
        }
        let body = format!("you reached {address} as {host}\n");
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
    }
}

/// Says half of something, and breaks off when it has been heard.
fn broken(mut stream: TcpStream, _: IpAddr) {
    let _ = stream.write_all(b"half\n").and_then(|()| stream.read_exact(&mut [0; 5]));
    let _ = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
}

/// Says nothing, without an end.
fn zeros(mut stream: TcpStream, _: IpAddr) {
    let zeros = vec![0; 1 << 20];
    while stream.write_all(&zeros).is_ok() {}
}

/// Says everything again. Fails when the connection breaks off.
fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 65536];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

/// Answers at [`NAME_SERVER`], and tells of questions at other servers' addresses.
fn dns() {
    let server = datagram_socket(NAME_SERVER.into(), 53);
    // Hundreds of sandboxes may ask at once.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&server, 4 << 20).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 1024];
        loop {
            if let Some((length, from)) = receive(&server, &mut buffer) {
                answer(&server, &buffer[..length], from);
            }
        }
    });
    for address in ELSEWHERE {
        datagrams_at(address, 53, |_| None);
    }
}

/// Answers datagrams, and tells of each: port 7000 says everything again, 123 says what time it is, and 7002 nothing.
fn datagrams() {
    let other = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 15));
    let refused: [IpAddr; 2] = [Ipv4Addr::new(10, 0, 0, 5).into(), Ipv4Addr::new(169, 254, 169, 254).into()];
    for address in [PUBLIC.into(), other, PUBLIC_V6.into()].into_iter().chain(refused) {
        datagrams_at(address, 7000, |datagram| Some(datagram.to_vec()));
    }
    datagrams_at(PUBLIC.into(), 443, |_| None);
    datagrams_at(PUBLIC.into(), 7002, |_| None);
    datagrams_at(PUBLIC.into(), 123, |question| {
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 2_208_988_800;
        // Version 4, a server, of the second stratum; the times of the question, and of the answer.
        let mut answer = vec![0x24, 2];
        answer.resize(24, 0);
        answer.extend_from_slice(question.get(40..48)?);
        answer.extend((0..2).flat_map(|_| (seconds << 32).to_be_bytes()));
        Some(answer)
    });
}

fn datagrams_at(address: IpAddr, port: u16, answer: fn(&[u8]) -> Option<Vec<u8>>) {
    let socket = datagram_socket(address, port);
    thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        loop {
            let Some((length, from)) = receive(&socket, &mut buffer) else { continue };
            say(&format!("udp {address} {port}"));
            if let Some(answer) = answer(&buffer[..length]) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
}

fn answer(server: &UdpSocket, question: &[u8], from: SocketAddr) {
    let (mut name, mut at) = (Vec::new(), 12);
    while question[at] != 0 {
        let length = usize::from(question[at]);
        name.push(String::from_utf8_lossy(&question[at + 1..=at + length]).to_lowercase());
        at += length + 1;
    }
    let (name, kind) = (name.join("."), question[at + 2]);
    say(&format!("dns {name}"));
    let mut message = question[..at + 5].to_vec();
    let known = means(&name, kind);
    let (code, answers) = match &known {
        None => (3, Vec::new()),
        Some(addresses) => (0, addresses.iter().filter(|address| kind == if address.is_ipv4() { 1 } else { 28 }).collect()),
    };
    message[2..12].copy_from_slice(&[0x81, 0x80 | code, 0, 1, 0, answers.len() as u8, 0, 0, 0, 0]);
    for address in answers {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        message.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 0, 0, bytes.len() as u8]);
        message.extend_from_slice(&bytes);
    }
    server.send_to(&message, from).unwrap();
}

fn means(name: &str, kind: u8) -> Option<Vec<IpAddr>> {
    static REBOUND: AtomicU32 = AtomicU32::new(0);
    Some(vec![match name {
        "mixed.test" => return Some(vec![Ipv4Addr::new(10, 0, 0, 5).into(), PUBLIC.into()]),
        "dns.google" => Ipv4Addr::new(8, 8, 8, 8).into(),
        "own.test" => OWN.into(),
        "second.test" => OWN_SECOND.into(),
        "allowed.test" => PUBLIC.into(),
        "other.test" => Ipv4Addr::new(93, 184, 215, 15).into(),
        "packages.test" => Ipv4Addr::new(93, 184, 215, 16).into(),
        "private.test" => Ipv4Addr::new(10, 0, 0, 5).into(),
        "metadata.test" => Ipv4Addr::new(169, 254, 169, 254).into(),
        "loop.test" => Ipv4Addr::LOCALHOST.into(),
        "v6.test" => PUBLIC_V6.into(),
        // The internet first, the private network from the second question on.
        "rebind.test" if kind == 1 && REBOUND.fetch_add(1, Ordering::SeqCst) == 0 => PUBLIC.into(),
        "rebind.test" => Ipv4Addr::new(10, 0, 0, 5).into(),
        // One place of many.
        _ => Ipv4Addr::new(93, 184, 216, name.strip_prefix("place")?.strip_suffix(".test")?.parse().ok()?).into(),
    }])
}
