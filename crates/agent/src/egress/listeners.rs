//! Where the kernel has no packet filter that could redirect: connections to a list of ports, which end at listeners on every address. All addresses are local, so
//! each is accepted at the address that it was to go to. To any other port nobody listens, and the kernel refuses at once.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::diverted;

/// The ports that connections can leave to: SSH, HTTP and HTTPS and its alternative, mail by its encrypted ports, rsync, Git, key servers.
///
/// A port of the agent's nobody inside can listen on, not on loopback either: the kernel knows no address but all of them. So the ports that programs inside
/// serve themselves are not among them, as 3000, 5432, 6379, 8000 and 8080.
pub(super) const PORTS: [u16; 11] = [22, 80, 443, 465, 587, 873, 993, 995, 8443, 9418, 11371];
/// Of questions, by datagrams and connections.
pub(super) const QUESTIONS: u16 = 53;
/// Connections that wait to be accepted, of each port.
const BACKLOG: i32 = 1024;

/// Sockets on every address, of both families where there are both.
pub(super) struct Listeners {
    pub(super) connections: Vec<OwnedFd>,
    pub(super) questions: Vec<OwnedFd>,
    pub(super) datagrams: Vec<OwnedFd>,
}

impl Listeners {
    /// Takes the ports. What the kernel would answer itself for every address, it is told not to.
    ///
    /// # Errors
    /// When a port cannot be had.
    pub(super) fn open() -> io::Result<Self> {
        // Echo requests. Where they are answered all the same, an answer says nothing.
        for setting in ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all"] {
            let _ = fs::write(format!("/proc/sys/net/{setting}"), "1");
        }
        let mut listeners = Self { connections: Vec::new(), questions: vec![], datagrams: vec![] };
        for everywhere in [IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED)] {
            match open(SocketAddr::new(everywhere, QUESTIONS), SocketType::STREAM) {
                Ok(socket) => listeners.questions.push(socket),
                // A kernel without IPv6.
                Err(error) if everywhere.is_ipv6() && is_without(&error) => break,
                Err(error) => return Err(error),
            }
            listeners.datagrams.push(open(SocketAddr::new(everywhere, QUESTIONS), SocketType::DGRAM)?);
            for port in PORTS {
                listeners.connections.push(open(SocketAddr::new(everywhere, port), SocketType::STREAM)?);
            }
        }
        Ok(listeners)
    }
}

fn is_without(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

fn open(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if address.is_ipv6() {
        // The other family has a socket of its own.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if kind == SocketType::DGRAM {
        // Whoever asks compares where the answer comes from. Of IPv6 no address is one to answer from that is not a device's.
        diverted::tell_destination(&socket, address)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_freebind(&socket, true)?;
        }
    } else {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    let told = |errno: rustix::io::Errno| {
        let error = io::Error::from(errno);
        if is_without(&error) { error } else { io::Error::new(error.kind(), format!("port {} cannot be had: {error}", address.port())) }
    };
    rustix::net::bind(&socket, &address).map_err(told)?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, BACKLOG).map_err(told)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_there_once_and_questions_have_their_own() {
        assert!(PORTS.is_sorted_by(|one, next| one < next) && !PORTS.contains(&QUESTIONS));
    }
}
