//! The sockets for datagrams that would leave, and for what is answered to them. Each takes a right that the agent gives up.
#![expect(unsafe_code, reason = "no safe wrapper sets these options of a socket, or reads the address that a datagram was sent to")]

use std::{
    io,
    mem::{MaybeUninit, size_of},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::net::{AddressFamily, Protocol, RawProtocol, SendFlags, SocketFlags, SocketType};

use super::{both, datagrams, redirect::MARK};

/// Bytes of the largest datagram, and of its packet.
pub(super) const LARGEST: usize = 65_535;

/// Sockets that get what is diverted to their port, and what is answered by.
pub(super) struct Diverted {
    pub(super) port: u16,
    pub(super) sockets: Vec<UdpSocket>,
    pub(super) sender: Sender,
}

impl Diverted {
    /// Opens them, and lets answers of `servers` pass by the rules as those of the sender do.
    ///
    /// # Errors
    /// When the kernel has none, or the rights are not there.
    pub(super) fn open(servers: &[UdpSocket]) -> io::Result<Self> {
        let sockets = both(&datagrams)?;
        for socket in &sockets {
            let address = socket.local_addr()?;
            let (level, transparent) = match address {
                SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_TRANSPARENT),
                SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
            };
            set(socket, level, transparent, 1)?;
            tell_destination(socket, address)?;
        }
        let sender = Sender::open(sockets.len() > 1)?;
        for server in servers {
            mark(server)?;
        }
        Ok(Self { port: sockets[0].local_addr()?.port(), sockets, sender })
    }
}

/// Sends packets that come from anybody. They stay inside, as all packets do.
pub(super) struct Sender {
    four: OwnedFd,
    six: Option<OwnedFd>,
}

impl Sender {
    fn open(has_six: bool) -> io::Result<Self> {
        let open = |family| -> io::Result<OwnedFd> {
            /// `IPPROTO_RAW`: packets with their headers, and none are received.
            const RAW: u32 = 255;
            let protocol = RawProtocol::new(RAW).map(Protocol::from_raw);
            let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol)?;
            mark(&socket)?;
            Ok(socket)
        };
        Ok(Self { four: open(AddressFamily::INET)?, six: has_six.then(|| open(AddressFamily::INET6)).transpose()? })
    }

    /// Sends a packet. One for which there is no room is lost.
    pub(super) fn send(&self, packet: &[u8], to: SocketAddr) {
        let (socket, to) = match to {
            SocketAddr::V4(to) => (Some(&self.four), SocketAddr::new((*to.ip()).into(), 0)),
            SocketAddr::V6(to) => (self.six.as_ref(), SocketAddr::new((*to.ip()).into(), 0)),
        };
        if let Some(socket) = socket {
            let _ = rustix::net::sendto(socket, packet, SendFlags::DONTWAIT, &to);
        }
    }
}

/// Has the kernel tell with each datagram of this socket, whose address this is, where it was to go ([`Received::to`]).
pub(super) fn tell_destination(socket: impl AsFd, own: SocketAddr) -> io::Result<()> {
    let (level, option) = match own {
        SocketAddr::V4(_) => (libc::SOL_IP, libc::IP_RECVORIGDSTADDR),
        SocketAddr::V6(_) => (libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR),
    };
    set(socket, level, option, 1)
}

fn mark(socket: impl AsFd) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_MARK, MARK.cast_signed())
}

fn set(socket: impl AsFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the kernel reads a number of this size.
    let done = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A datagram that was diverted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) length: usize,
    pub(super) from: SocketAddr,
    /// Where it was to go, where the socket is told.
    pub(super) to: Option<SocketAddr>,
}

/// The next datagram; `None` for one that came from nowhere.
///
/// # Errors
/// `WouldBlock` when there is none, or another of the socket's.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    /// Room for one address, aligned as its header must be.
    #[repr(C, align(8))]
    struct Control([MaybeUninit<u8>; 128]);
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut control = Control([MaybeUninit::uninit(); 128]);
    let mut space = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all of it may be zero.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut space;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: everything that it points to lives until the end of this function, with the lengths that it says.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let Ok(length) = usize::try_from(length) else { return Err(io::Error::last_os_error()) };
    // SAFETY: it was zeroed, and what the kernel has written is an address.
    let from = address(unsafe { name.assume_init_ref() });
    let mut to = None;
    // SAFETY: the message is as the kernel left it, with its control messages in `control`.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: the kernel has written a whole header there.
        let (level, kind, size) = unsafe { ((*header).cmsg_level, (*header).cmsg_type, (*header).cmsg_len as usize) };
        let size = match (level, kind) {
            (libc::SOL_IP, libc::IP_ORIGDSTADDR) => Some(size_of::<libc::sockaddr_in>()).filter(|own| size >= *own),
            (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => Some(size_of::<libc::sockaddr_in6>()).filter(|own| size >= *own),
            _ => None,
        };
        if let Some(size) = size {
            let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
            // SAFETY: the data of such a message is an address of this size, which is less than that of any address.
            unsafe { std::ptr::copy_nonoverlapping(libc::CMSG_DATA(header), storage.as_mut_ptr().cast::<u8>(), size) };
            // SAFETY: it was zeroed before.
            to = address(unsafe { storage.assume_init_ref() });
        }
        // SAFETY: as above.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(from.map(|from| Received { length, from, to }))
}

/// Answers a datagram, from where it was to go. An answer for which there is no room is lost, as datagrams are.
pub(super) fn answer(socket: &OwnedFd, message: &[u8], received: &Received) {
    let Some(own) = received.to else {
        let _ = rustix::net::sendto(socket, message, SendFlags::DONTWAIT, &received.from);
        return;
    };
    match own.ip() {
        IpAddr::V4(own) => {
            let own = libc::in_addr { s_addr: u32::from_ne_bytes(own.octets()) };
            let from = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: own, ipi_addr: libc::in_addr { s_addr: 0 } };
            send(socket, message, received.from, (libc::SOL_IP, libc::IP_PKTINFO, from));
        }
        IpAddr::V6(own) => {
            let from = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: own.octets() }, ipi6_ifindex: 0 };
            send(socket, message, received.from, (libc::SOL_IPV6, libc::IPV6_PKTINFO, from));
        }
    }
}

/// Sends with one control message.
fn send<T: Copy>(socket: &OwnedFd, message: &[u8], to: SocketAddr, (level, kind, data): (i32, i32, T)) {
    /// A control message as it is laid out (cmsg(3)): its data begin at a multiple of the word's size, and a header is one.
    #[repr(C)]
    struct Control<T> {
        header: libc::cmsghdr,
        data: T,
    }
    // SAFETY: all of it may be zero.
    let mut header: libc::cmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<T>()) as _;
    (header.cmsg_level, header.cmsg_type) = (level, kind);
    let mut control = Control { header, data };
    let to = rustix::net::SocketAddrAny::from(to);
    let mut space = libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() };
    // SAFETY: all of it may be zero.
    let mut head: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    head.msg_name = to.as_ptr().cast_mut().cast();
    head.msg_namelen = to.addr_len();
    head.msg_iov = &raw mut space;
    head.msg_iovlen = 1;
    head.msg_control = (&raw mut control).cast();
    head.msg_controllen = size_of::<Control<T>>() as _;
    // SAFETY: everything that it points to lives until the end of this function, with the lengths that it says, and is only read.
    unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const head, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: an address of this family begins there, and there is room for any.
            let four = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            Some((Ipv4Addr::from(four.sin_addr.s_addr.to_ne_bytes()), u16::from_be(four.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let six = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            Some((Ipv6Addr::from(six.sin6_addr.s6_addr), u16::from_be(six.sin6_port)).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    /// Waits for a datagram: even over loopback it may come after the call that sent it.
    fn arrived(socket: &OwnedFd) {
        let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&patience)), Ok(1));
    }

    #[test]
    fn a_datagram_is_received_with_both_of_its_ends_and_answered_from_where_it_was_to_go() {
        for (at, everywhere, local) in [("127.0.0.1:0", "0.0.0.0:0", "127.9.9.9"), ("[::1]:0", "[::]:0", "::1")] {
            let (server, client) = (UdpSocket::bind(everywhere).unwrap(), UdpSocket::bind(at).unwrap());
            let mut buffer = [0; 16];
            let port = server.local_addr().unwrap().port();
            let to = SocketAddr::new(local.parse().unwrap(), port);
            let (from, own) = (client.local_addr().unwrap(), server.local_addr().unwrap());
            let server = OwnedFd::from(server);
            assert_eq!(receive(&server, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            client.connect(to).unwrap();
            client.send(b"hi").unwrap();
            arrived(&server);
            assert_eq!(receive(&server, &mut buffer).unwrap(), Some(Received { length: 2, from, to: None }));
            tell_destination(&server, own).unwrap();
            client.send(b"hello").unwrap();
            arrived(&server);
            let received = receive(&server, &mut buffer).unwrap().unwrap();
            assert_eq!((&received, &buffer[..5]), (&Received { length: 5, from, to: Some(to) }, &b"hello"[..]));
            // Whoever is connected hears nobody else.
            answer(&server, b"back", &received);
            client.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
            assert_eq!(client.recv(&mut buffer).unwrap(), 4);
            assert_eq!(&buffer[..4], b"back");
        }
    }
}
