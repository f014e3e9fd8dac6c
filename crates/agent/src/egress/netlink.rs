//! Messages to the kernel: routes, packet rules and questions about sockets, by netlink(7). Only what `redirect`, `claim` and `ports` need.

use std::io;

use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType},
};

/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_CREATE`: linux/netlink.h.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NLM_F_DUMP`.
const DUMP: u16 = 0x300;
/// `NLMSG_DONE`.
const LAST: u16 = 3;
/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NETLINK_ROUTE` and `NETLINK_NETFILTER`.
const ROUTE: u32 = 0;
const NETFILTER: u32 = 12;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;

/// A sequence of messages, each of which the kernel answers unless it is the bracket of a batch.
#[derive(Debug, Default)]
pub(super) struct Messages {
    bytes: Vec<u8>,
    answered: u32,
    sent: u32,
}

impl Messages {
    /// A message with a fixed part and attributes.
    pub(super) fn add(&mut self, kind: u16, fixed: &[u8], attributes: impl FnOnce(&mut Attributes)) -> &mut Self {
        self.answered += 1;
        self.push(kind, REQUEST | ACKNOWLEDGE | CREATE | APPEND, fixed, attributes)
    }

    /// One that is not acknowledged: the begin or the end of a batch, or a question.
    pub(super) fn bracket(&mut self, kind: u16, fixed: &[u8]) -> &mut Self {
        self.push(kind, REQUEST, fixed, |_| {})
    }

    fn push(&mut self, kind: u16, flags: u16, fixed: &[u8], attributes: impl FnOnce(&mut Attributes)) -> &mut Self {
        let begin = self.bytes.len();
        self.sent += 1;
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sent.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(fixed);
        attributes(&mut Attributes(&mut self.bytes));
        pad(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - begin).unwrap_or(u32::MAX);
        self.bytes[begin..begin + 4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Sends them to the routing tables.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn to_routes(&self) -> io::Result<()> {
        self.send(ROUTE)
    }

    /// Sends them to the packet filter.
    ///
    /// # Errors
    /// The kernel's refusal, or that it has none.
    pub(super) fn to_filter(&self) -> io::Result<()> {
        self.send(NETFILTER)
    }

    fn send(&self, family: u32) -> io::Result<()> {
        let protocol = rustix::net::RawProtocol::new(family).map(Protocol::from_raw);
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        rustix::net::send(&socket, &self.bytes, SendFlags::empty())?;
        let mut answered = 0;
        while answered < self.answered {
            answered += Self::read(&socket)?;
        }
        Ok(())
    }

    /// Reads one datagram of answers.
    fn read(socket: &OwnedFd) -> io::Result<u32> {
        let mut buffer = [0_u8; 8192];
        let (length, _) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let (mut rest, mut count) = (&buffer[..length.min(buffer.len())], 0);
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "netlink's answer is malformed");
        while let Some((header, _)) = rest.split_at_checked(HEADER) {
            let size = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let message = rest.get(HEADER..size).ok_or_else(malformed)?;
            if u16::from_ne_bytes([header[4], header[5]]) == ERROR {
                let number = message.get(..4).ok_or_else(malformed)?;
                match i32::from_ne_bytes([number[0], number[1], number[2], number[3]]) {
                    0 => count += 1,
                    number => return Err(io::Error::from_raw_os_error(-number)),
                }
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(count)
    }
}

/// Asks the kernel for one thing; its answer without the header.
///
/// # Errors
/// The kernel's refusal, or that there is no such thing.
pub(super) fn ask(family: u32, kind: u16, request: &[u8]) -> io::Result<Vec<u8>> {
    let protocol = rustix::net::RawProtocol::new(family).map(Protocol::from_raw);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    let mut message = Messages::default();
    message.bracket(kind, request);
    rustix::net::send(&socket, &message.bytes, SendFlags::empty())?;
    let mut buffer = [0_u8; 8192];
    // It has answered before the call above returned.
    let (length, _) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT)?;
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "netlink's answer is malformed");
    let (header, body) = buffer.get(..length).and_then(|bytes| bytes.split_at_checked(HEADER)).ok_or_else(malformed)?;
    if u16::from_ne_bytes([header[4], header[5]]) == ERROR {
        let number = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes).ok_or_else(malformed)?;
        return Err(io::Error::from_raw_os_error(-number));
    }
    Ok(body.to_vec())
}

/// Asks the kernel for all of a kind; each answer without its header.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn list(family: u32, kind: u16, request: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let protocol = rustix::net::RawProtocol::new(family).map(Protocol::from_raw);
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    let mut message = Messages::default();
    message.push(kind, REQUEST | DUMP, request, |_| {});
    rustix::net::send(&socket, &message.bytes, SendFlags::empty())?;
    // The kernel writes as much at once as is asked for, from 8 to 32 KiB.
    let mut buffer = vec![0_u8; 32 << 10];
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "netlink's answer is malformed");
    loop {
        let (length, _) = rustix::net::recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = buffer.get(..length).ok_or_else(malformed)?;
        if rest.is_empty() {
            return Err(malformed());
        }
        while let Some((header, _)) = rest.split_at_checked(HEADER) {
            let size = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let body = rest.get(HEADER..size).ok_or_else(malformed)?;
            match u16::from_ne_bytes([header[4], header[5]]) {
                LAST => return Ok(()),
                ERROR => {
                    let number = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes).ok_or_else(malformed)?;
                    return Err(io::Error::from_raw_os_error(-number));
                }
                _ => each(body),
            }
            rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// Attributes (`struct nlattr`): a length, a kind and a value, padded to four bytes.
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.nest_as(kind, |own| own.0.extend_from_slice(value))
    }

    /// A text with its NUL.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.nest_as(kind, |own| {
            own.0.extend_from_slice(value.as_bytes());
            own.0.push(0);
        })
    }

    /// A number as the packet filter has them: the highest byte first.
    pub(super) fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes)) -> &mut Self {
        self.nest_as(kind | NESTED, inner)
    }

    fn nest_as(&mut self, kind: u16, inner: impl FnOnce(&mut Attributes)) -> &mut Self {
        let begin = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        inner(&mut Attributes(self.0));
        let length = u16::try_from(self.0.len() - begin).unwrap_or(u16::MAX);
        self.0[begin..begin + 2].copy_from_slice(&length.to_ne_bytes());
        pad(self.0);
        self
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}
