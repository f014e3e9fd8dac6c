use std::{
    fs,
    io::{self, Read},
    net::{SocketAddr, TcpStream},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr as UnixAddr, UnixStream},
    },
    time::Duration,
};

use super::Log;
use crate::{number::SOCKET, sys::raw};

/// sys/socket.h and linux/netlink.h: families and kinds, and why nobody inside needs them.
const SOCKETS: [(&str, usize, usize, usize); 13] = [
    ("a raw IPv4 socket", 2, 3, 1),
    ("a raw IPv6 socket", 10, 3, 58),
    ("a packet socket", 17, 3, 0x0300),
    ("a datagram packet socket", 17, 2, 0x0300),
    ("a vsock socket", 40, 1, 0),
    ("an algorithm socket", 38, 5, 0),
    ("a key management socket", 15, 3, 2),
    ("an XDP socket", 44, 3, 0),
    ("a CAN socket", 29, 3, 1),
    ("a Bluetooth socket", 31, 3, 1),
    ("a TIPC socket", 30, 5, 0),
    ("an RDS socket", 21, 5, 0),
    ("an AX.25 socket", 3, 5, 0),
];

/// `abstract NAME`, `unix PATH` or `tcp ADDRESS`, each a listener of the host.
pub(super) fn attack(log: &mut Log, targets: &[&str]) {
    for pair in targets.chunks(2) {
        let [kind, target] = pair else { continue };
        let outcome = match *kind {
            "abstract" => UnixAddr::from_abstract_name(target).and_then(|address| UnixStream::connect_addr(&address)).map(drop),
            "unix" => UnixStream::connect(target).map(drop),
            "tcp" => tcp(target),
            other => Err(io::Error::other(format!("unknown kind {other}"))),
        };
        log.refused(format!("connect to {kind} {target}"), outcome);
    }
    for (name, family, kind, protocol) in SOCKETS {
        log.refused(name, raw(SOCKET, [family, kind, protocol, 0, 0, 0]));
    }
    let table = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let names: Vec<&str> = table.lines().skip(2).filter_map(|line| line.split(':').next()).map(str::trim).collect();
    log.holds(format!("the interfaces are {names:?}"), names == ["lo"]);
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    for line in sockets.lines().filter(|line| line.contains(" /") || line.contains(" @")) {
        let name = line.rsplit(' ').next().unwrap_or_default();
        // The agent's own socket is bound outside, but listed by its inode's namespace: it may be seen, not reached.
        let outcome = match name.strip_prefix('@') {
            Some(name) => UnixAddr::from_abstract_name(name).and_then(|address| UnixStream::connect_addr(&address)),
            None => UnixStream::connect(name),
        };
        log.refused(format!("connect to the listed {name}"), outcome);
    }
}

fn tcp(address: &str) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.read_exact(&mut [0])
}
