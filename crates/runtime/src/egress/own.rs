use std::{io, net::IpAddr};

/// Whether packets to an address would end on this machine, whatever its name for it is: by the addresses that it has, and by routes that make others its own. Where
/// that cannot be found out, they would.
pub(crate) fn is_own(address: IpAddr) -> bool {
    ends_here(address.to_canonical()).unwrap_or_else(|error| {
        tracing::warn!(%address, %error, "the kernel does not say whether an address is this machine's");
        true
    })
}

/// Asks the kernel for the route to it, as `ip route get` does (rtnetlink(7)). An address that a socket could be bound to is not enough: there is a setting that lets it be bound to any.
/// Nor is the address that a socket would have as its own: of several of one network it is the first.
#[cfg(target_os = "linux")]
fn ends_here(address: IpAddr) -> io::Result<bool> {
    use rustix::{
        io::Errno,
        net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with},
    };

    /// `NLMSG_ERROR`, `RTM_NEWROUTE`, `RTM_GETROUTE`, `NLM_F_REQUEST`, `RTA_DST`, `RTN_LOCAL`, `RTN_ANYCAST`: linux/netlink.h, linux/rtnetlink.h.
    const ERROR: u16 = 2;
    const NEW_ROUTE: u16 = 24;
    const GET_ROUTE: u16 = 26;
    const REQUEST: u16 = 1;
    const DESTINATION: u16 = 1;
    const LOCAL: u8 = 2;
    const ANYCAST: u8 = 4;
    /// Bytes of `struct nlmsghdr`, and where the kind of route stands in `struct rtmsg`, which follows.
    const HEADER: usize = 16;
    const KIND: usize = 7;

    let (family, bytes): (AddressFamily, &[u8]) = match &address {
        IpAddr::V4(four) => (AddressFamily::INET, &four.octets()),
        IpAddr::V6(six) => (AddressFamily::INET6, &six.octets()),
    };
    let attribute = 4 + bytes.len();
    let length = HEADER + 12 + attribute;
    let mut question = Vec::with_capacity(length);
    question.extend_from_slice(&(length as u32).to_ne_bytes());
    question.extend_from_slice(&GET_ROUTE.to_ne_bytes());
    question.extend_from_slice(&REQUEST.to_ne_bytes());
    question.extend_from_slice(&[0; 8]);
    question.extend_from_slice(&[family.as_raw() as u8, (bytes.len() * 8) as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    question.extend_from_slice(&(attribute as u16).to_ne_bytes());
    question.extend_from_slice(&DESTINATION.to_ne_bytes());
    question.extend_from_slice(bytes);

    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &question, SendFlags::empty())?;
    let mut buffer = [0; 4096];
    let (length, _) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
    let answer = &buffer[..length];
    let number = |at: usize| answer.get(at..at + 2).map(|two| u16::from_ne_bytes([two[0], two[1]]));
    match number(4) {
        Some(NEW_ROUTE) => Ok(answer.get(HEADER + KIND).is_none_or(|kind| [LOCAL, ANYCAST].contains(kind))),
        Some(ERROR) => {
            let code = answer.get(HEADER..HEADER + 4).map_or(0, |four| i32::from_ne_bytes([four[0], four[1], four[2], four[3]]));
            match Errno::from_raw_os_error(-code) {
                // There is no way there, or one that refuses it: nobody is reached.
                Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS | Errno::INVAL | Errno::AFNOSUPPORT | Errno::OPNOTSUPP => Ok(false),
                error => Err(error.into()),
            }
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// There are no walls, and so nothing is connected to.
#[cfg(not(target_os = "linux"))]
fn ends_here(_: IpAddr) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machines_and_documentation_is_nobodys() {
        for address in ["127.0.0.1", "127.1.2.3", "::ffff:127.0.0.1"] {
            assert!(is_own(address.parse().unwrap()), "{address}");
        }
        for address in ["192.0.2.1", "2001:db8::1"] {
            assert!(!is_own(address.parse().unwrap()), "{address}");
        }
    }
}
