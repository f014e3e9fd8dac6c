//! The packet filter's older interface, of linux/netfilter/x_tables.h: for kernels that have no other, as gVisor's. A table is replaced as a whole.
#![expect(unsafe_code, reason = "no safe wrapper sets these options of a socket")]

use std::{io, os::fd::AsRawFd};

use rustix::net::{AddressFamily, Protocol, RawProtocol, SocketFlags, SocketType};

use super::redirect::{Ports, TCP, UDP};

/// `IPPROTO_RAW`.
const RAW: u32 = 255;
/// `IPT_SO_SET_REPLACE` and `IP6T_SO_SET_REPLACE`.
const REPLACE: i32 = 64;
const TABLE: &[u8] = b"nat";
/// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_IN`, `NF_INET_LOCAL_OUT`, `NF_INET_POST_ROUTING`: those of the table.
const HOOKS: [usize; 4] = [0, 1, OUTPUT, 4];
const OUTPUT: usize = 3;
/// What a rule that accepts has as its verdict: `-NF_ACCEPT - 1`.
const ACCEPT: i32 = -2;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const PORT: u32 = 2;
/// Bytes of the name of a match or a target.
const NAME: usize = 29;

/// Redirects what leaves by the table `nat` of both families. Needs `CAP_NET_ADMIN` and `CAP_NET_RAW`.
///
/// # Errors
/// When the kernel cannot do it.
pub(super) fn install(ports: Ports) -> io::Result<()> {
    Family::Four.install(ports)?;
    match Family::Six.install(ports) {
        // A kernel without IPv6.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(()),
        other => other,
    }
}

#[derive(Clone, Copy)]
enum Family {
    Four,
    Six,
}

impl Family {
    fn install(self, ports: Ports) -> io::Result<()> {
        let (family, level) = match self {
            Self::Four => (AddressFamily::INET, libc::SOL_IP),
            Self::Six => (AddressFamily::INET6, libc::SOL_IPV6),
        };
        let protocol = RawProtocol::new(RAW).map(Protocol::from_raw);
        let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        let table = self.table(ports);
        let length = libc::socklen_t::try_from(table.len()).map_err(io::Error::other)?;
        // SAFETY: the kernel reads as many bytes as it is given. The pointer to counters in them is null, and their number zero.
        let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, REPLACE, table.as_ptr().cast(), length) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// `struct ipt_replace` with its entries.
    fn table(self, ports: Ports) -> Vec<u8> {
        let leaving = [
            self.entry(0, None, true, &standard(ACCEPT)),
            self.entry(UDP, Some(53), false, &self.redirect(ports.questions)),
            self.entry(TCP, Some(53), false, &self.redirect(ports.questions)),
            self.entry(TCP, None, false, &self.redirect(ports.connections)),
        ];
        let (mut entries, mut count, mut valid) = (Vec::new(), 0_u32, 0_u32);
        let (mut begins, mut policies) = ([0_u32; 5], [0_u32; 5]);
        for hook in HOOKS {
            valid |= 1 << hook;
            begins[hook] = length(&entries);
            for entry in leaving.iter().filter(|_| hook == OUTPUT) {
                entries.extend_from_slice(entry);
                count += 1;
            }
            policies[hook] = length(&entries);
            entries.extend(self.entry(0, None, false, &standard(ACCEPT)));
            count += 1;
        }
        entries.extend(self.entry(0, None, false, &end()));
        count += 1;
        let mut table = padded(TABLE, 32);
        let numbers = [valid, count, length(&entries)].into_iter().chain(begins).chain(policies).chain([count]);
        table.extend(numbers.flat_map(u32::to_ne_bytes));
        // The pointer to counters, which the kernel does not look at here.
        table.extend_from_slice(&[0; 8]);
        table.extend(entries);
        table
    }

    /// `struct ipt_entry` or `struct ip6t_entry`, with a match of the destination's port and a target.
    fn entry(self, protocol: u8, port: Option<u16>, to_loopback: bool, target: &[u8]) -> Vec<u8> {
        let mut bytes = match self {
            Self::Four => {
                let (address, mask) = if to_loopback { ([127, 0, 0, 0], [255, 0, 0, 0]) } else { ([0; 4], [0; 4]) };
                // Source, destination, their masks; names of devices and their masks; protocol, flags, inverted flags.
                let mut bytes = [[0; 4], address, [0; 4], mask].concat();
                bytes.extend_from_slice(&[0; 64]);
                bytes.extend_from_slice(&u16::from(protocol).to_ne_bytes());
                bytes.extend_from_slice(&[0; 2]);
                bytes
            }
            Self::Six => {
                let mut localhost = [0; 16];
                localhost[15] = 1;
                let (address, mask) = if to_loopback { (localhost, [255; 16]) } else { ([0; 16], [0; 16]) };
                let mut bytes = [[0; 16], address, [0; 16], mask].concat();
                bytes.extend_from_slice(&[0; 64]);
                bytes.extend_from_slice(&u16::from(protocol).to_ne_bytes());
                // Type of service; `IP6T_F_PROTO`; inverted flags; padding.
                bytes.extend_from_slice(&[0, u8::from(protocol != 0), 0, 0, 0, 0]);
                bytes
            }
        };
        let condition = port.map_or_else(Vec::new, |port| destined(protocol, port));
        // What it was cached for, the offsets of target and next entry, where it came from, counters of packets and bytes.
        let head = (bytes.len() + 12).next_multiple_of(8) + 16;
        let offset = head + condition.len();
        bytes.extend_from_slice(&[0; 4]);
        for number in [offset, offset + target.len()] {
            bytes.extend(u16::try_from(number).unwrap_or(u16::MAX).to_ne_bytes());
        }
        bytes.resize(head, 0);
        bytes.extend(condition);
        bytes.extend_from_slice(target);
        bytes
    }

    /// The target `REDIRECT`.
    fn redirect(self, port: u16) -> Vec<u8> {
        let mut range = Vec::new();
        match self {
            // One range: flags, addresses, ports.
            Self::Four => {
                range.extend([1, PORT, 0, 0].into_iter().flat_map(u32::to_ne_bytes));
            }
            Self::Six => {
                range.extend(PORT.to_ne_bytes());
                range.extend_from_slice(&[0; 32]);
            }
        }
        range.extend([port, port].into_iter().flat_map(u16::to_be_bytes));
        extension(b"REDIRECT", &range)
    }
}

/// The match of a destination's port: `struct xt_tcp` or `struct xt_udp`.
fn destined(protocol: u8, port: u16) -> Vec<u8> {
    let ports: Vec<u8> = [0, u16::MAX, port, port].into_iter().flat_map(u16::to_ne_bytes).collect();
    extension(if protocol == TCP { b"tcp" } else { b"udp" }, &padded(&ports, if protocol == TCP { 12 } else { 10 }))
}

/// The target that is a verdict; its name is empty.
fn standard(verdict: i32) -> Vec<u8> {
    extension(b"", &verdict.to_ne_bytes())
}

/// The target at the end of every table.
fn end() -> Vec<u8> {
    extension(b"ERROR", &padded(b"ERROR", 30))
}

/// `struct xt_entry_match` or `struct xt_entry_target`: length, name, revision, data; the length is a multiple of eight.
fn extension(name: &[u8], data: &[u8]) -> Vec<u8> {
    let size = (2 + NAME + 1 + data.len()).next_multiple_of(8);
    let mut bytes = u16::try_from(size).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    bytes.extend(padded(name, NAME + 1));
    bytes.extend_from_slice(data);
    bytes.resize(size, 0);
    bytes
}

fn padded(bytes: &[u8], to: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(to, 0);
    bytes
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], at: usize) -> usize {
        u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    #[test]
    fn entries_follow_one_another_to_the_end_of_the_table() {
        for (family, head) in [(Family::Four, 112), (Family::Six, 168)] {
            let table = family.table(Ports { connections: 1234, questions: 5678, datagrams: None });
            let (count, size) = (number(&table, 36), number(&table, 40));
            let entries = &table[96..];
            assert_eq!((entries.len(), number(&table, 84)), (size, count));
            let (mut at, mut begins) = (0, Vec::new());
            while at < size {
                begins.push(at);
                let field = |offset: usize| usize::from(u16::from_ne_bytes(entries[at + offset..at + offset + 2].try_into().unwrap()));
                // Behind the address part and the cache's word.
                let offsets = if head == 112 { 88 } else { 140 };
                assert!(field(offsets) >= head && field(offsets + 2) > field(offsets));
                at += field(offsets + 2);
            }
            assert_eq!((at, begins.len()), (size, count));
            for hook in HOOKS {
                assert!(begins.contains(&number(&table, 44 + 4 * hook)) && begins.contains(&number(&table, 64 + 4 * hook)));
            }
        }
    }
}
