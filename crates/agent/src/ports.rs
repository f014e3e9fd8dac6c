use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{fd::AsFd, unix::ffi::OsStrExt},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
};
use sandbar_protocol::{Event, OpenPorts, event};

use crate::{
    egress::netlink,
    failure::{Kind, Result, failure, system},
    files::done,
    procfs,
    transfer::Link,
};

/// How often the kernel is asked who listens: it tells nobody by itself.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };
/// Most ports that are told: the lowest.
const MOST: usize = 1024;
/// `TCP_LISTEN`, of include/net/tcp_states.h.
const LISTEN: u8 = 10;

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Listener {
    port: u16,
    /// Its number.
    inode: u64,
}

/// Tells which ports of loopback something inside listens on: at once, and whenever that has changed, until the host leaves. `is_first` says that this
/// process is the first of the sandbox, which then has a network of its own; otherwise what its descendants hold counts alone.
pub(crate) fn watch(is_first: bool, words: bool, link: &mut Link) -> Result<()> {
    let mut seen = listeners().map_err(|error| cannot(&error))?;
    let mut told = among(&seen, is_first);
    done(link)?;
    if say(link, &told).is_err() {
        return Ok(());
    }
    let of_the_host = if words { PollFlags::IN } else { PollFlags::empty() };
    loop {
        {
            let socket = link.socket().as_fd();
            // Hang-ups are told without being asked for.
            let mut fds = [PollFd::from_borrowed_fd(socket, of_the_host)];
            match rustix::event::poll(&mut fds, Some(&LOOK)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(system("cannot wait", errno)),
            }
            if !fds[0].revents().is_empty() {
                return Ok(());
            }
        }
        // Where it cannot be asked now, it may be the next time: descriptors may be short.
        let Ok(now) = listeners() else { continue };
        if now == seen {
            continue;
        }
        let ports = among(&now, is_first);
        seen = now;
        if ports != told {
            told = ports;
            if say(link, &told).is_err() {
                return Ok(());
            }
        }
    }
}

fn cannot(error: &io::Error) -> sandbar_protocol::Failure {
    failure(Kind::Unavailable, format!("cannot see who listens: {error}"))
}

fn say(link: &mut Link, ports: &BTreeSet<u16>) -> std::result::Result<(), sandbar_protocol::FrameError> {
    let ports = ports.iter().copied().take(MOST).map(u32::from).collect();
    link.say(&Event { what: Some(event::What::Ports(OpenPorts { ports })) })
}

/// The ports of those that are the sandbox's, and not the agent's own.
fn among(listeners: &BTreeSet<Listener>, is_first: bool) -> BTreeSet<u16> {
    let own = rustix::process::getpid().as_raw_pid();
    let mut held = HashSet::new();
    if is_first {
        sockets(own, &mut held);
    } else {
        procfs::descendants(own).iter().for_each(|row| sockets(row.pid, &mut held));
    }
    listeners.iter().filter(|listener| held.contains(&listener.inode) != is_first).map(|listener| listener.port).collect()
}

/// The numbers of the sockets that a process holds.
fn sockets(pid: i32, found: &mut HashSet<u64>) {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return };
    let number = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        let text = std::str::from_utf8(link.as_os_str().as_bytes()).ok()?;
        text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
    };
    found.extend(descriptors.flatten().filter_map(number));
}

/// Who listens where a client on loopback comes to. Where the kernel cannot be asked for them alone, they are looked for in the text of all sockets.
fn listeners() -> io::Result<BTreeSet<Listener>> {
    asked().or_else(|_| listed())
}

/// By sock_diag(7).
fn asked() -> io::Result<BTreeSet<Listener>> {
    const FAMILY: u32 = 4;
    const BY_FAMILY: u16 = 20;
    const TCP: u8 = 6;
    let mut found = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // `struct inet_diag_req_v2`: family, protocol, no extensions, states, and no socket in particular.
        let mut request = vec![u8::try_from(family).map_err(io::Error::other)?, TCP, 0, 0];
        request.extend_from_slice(&(1_u32 << LISTEN).to_ne_bytes());
        request.extend_from_slice(&[0; 48]);
        netlink::list(FAMILY, BY_FAMILY, &request, |message| found.extend(described(message)))?;
    }
    Ok(found)
}

/// One of `struct inet_diag_msg`: family, state, two bytes; port and port at the other end; address and that of the other end; and far behind, the number.
fn described(message: &[u8]) -> Option<Listener> {
    let (&family, &state) = (message.first()?, message.get(1)?);
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let address: [u8; 16] = message.get(8..24)?.try_into().ok()?;
    let address = match i32::from(family) {
        libc::AF_INET => IpAddr::from([address[0], address[1], address[2], address[3]]),
        libc::AF_INET6 => IpAddr::from(address),
        _ => return None,
    };
    let inode = u32::from_ne_bytes(message.get(68..72)?.try_into().ok()?);
    (state == LISTEN && is_reached(address)).then_some(Listener { port, inode: inode.into() })
}

/// By the kernel's tables as text.
fn listed() -> io::Result<BTreeSet<Listener>> {
    let mut found = BTreeSet::new();
    found.extend(fs::read_to_string("/proc/self/net/tcp")?.lines().filter_map(line));
    // Where there is no IPv6, there is no table of it.
    found.extend(fs::read_to_string("/proc/self/net/tcp6").unwrap_or_default().lines().filter_map(line));
    Ok(found)
}

/// One line: number, `ADDRESS:PORT`, that of the other end, state, five more, the socket's number. Addresses are words of the machine's byte order, in hexadecimal.
fn line(text: &str) -> Option<Listener> {
    let mut fields = text.split_ascii_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    let inode = fields.nth(5)?.parse().ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let address = match address.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[4 * at..4 * at + 4].copy_from_slice(&word(at)?);
            }
            IpAddr::from(bytes)
        }
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == LISTEN && is_reached(address)).then_some(Listener { port, inode })
}

/// Whether a connection to loopback comes there.
fn is_reached(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_unspecified() || address == Ipv4Addr::LOCALHOST || address == Ipv6Addr::LOCALHOST
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::*;

    #[test]
    fn who_listens_is_seen_both_ways_and_is_the_agents_own() {
        let open = |address: &str| {
            let listener = TcpListener::bind(address).unwrap();
            let inode = rustix::fs::fstat(&listener).unwrap().st_ino;
            (Listener { port: listener.local_addr().unwrap().port(), inode }, listener)
        };
        let reached = ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0", "[::]:0"].map(open);
        let elsewhere = open("127.0.0.2:0");
        let client = std::net::TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], reached[0].0.port))).unwrap();
        for found in [asked().unwrap(), listed().unwrap()] {
            for (listener, _) in &reached {
                assert!(found.contains(listener), "{listener:?} is not in {found:?}");
            }
            assert!(!found.contains(&elsewhere.0));
            assert!(!found.iter().any(|listener| listener.port == client.local_addr().unwrap().port()));
            assert!(!among(&found, true).contains(&reached[0].0.port));
            assert!(!among(&found, false).contains(&reached[0].0.port));
        }
    }
}
