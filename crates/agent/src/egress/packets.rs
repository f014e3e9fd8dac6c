//! Packets with their headers (RFC 791, 768, 792, 8200, 4443), for answers in the name of addresses outside.

use std::net::{IpAddr, SocketAddr};

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Bytes of the headers.
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
/// How many routers it may pass: it passes none.
const HOPS: u8 = 64;

/// A datagram; `None` for one that is longer than one may be, or between addresses of two families.
pub(super) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<Vec<u8>> {
    let mut body = udp_header(from, to, payload.len())?.to_vec();
    body.extend_from_slice(payload);
    let sum = checksum(&[&pseudo_header(from.ip(), to.ip(), UDP, body.len())?, &body]);
    // Zero would say that there is none.
    let sum = if sum == 0 { u16::MAX } else { sum };
    body[6..8].copy_from_slice(&sum.to_be_bytes());
    packet(from.ip(), to.ip(), UDP, &body)
}

/// What says that nobody listens at `to` for what came from `from`.
pub(super) fn unreachable(from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    let refused = packet(from.ip(), to.ip(), UDP, &udp_header(from, to, 0)?)?;
    // Kind and code: port unreachable. The sum, and four bytes that are nothing.
    let (protocol, kind, code) = if to.is_ipv4() { (ICMP, 3, 3) } else { (ICMPV6, 1, 4) };
    let mut body = vec![kind, code, 0, 0, 0, 0, 0, 0];
    body.extend_from_slice(&refused);
    let sum = match protocol {
        ICMP => checksum(&[&body]),
        _ => checksum(&[&pseudo_header(to.ip(), from.ip(), protocol, body.len())?, &body]),
    };
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    packet(to.ip(), from.ip(), protocol, &body)
}

fn udp_header(from: SocketAddr, to: SocketAddr, payload: usize) -> Option<[u8; UDP_HEADER]> {
    let length = u16::try_from(UDP_HEADER + payload).ok()?;
    let [[a, b], [c, d], [e, f]] = [from.port(), to.port(), length].map(u16::to_be_bytes);
    Some([a, b, c, d, e, f, 0, 0])
}

fn packet(from: IpAddr, to: IpAddr, protocol: u8, body: &[u8]) -> Option<Vec<u8>> {
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(IPV4_HEADER + body.len()).ok()?.to_be_bytes();
            // Version and length of the header; no service; no number and no fragments; the sum, for now.
            let mut header = vec![0x45, 0, length[0], length[1], 0, 0, 0x40, 0, HOPS, protocol, 0, 0];
            header.extend(from.octets().into_iter().chain(to.octets()));
            let sum = checksum(&[&header]).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(body.len()).ok()?.to_be_bytes();
            let mut header = Vec::with_capacity(IPV6_HEADER + body.len());
            header.extend_from_slice(&[0x60, 0, 0, 0, length[0], length[1], protocol, HOPS]);
            header.extend(from.octets().into_iter().chain(to.octets()));
            header
        }
        _ => return None,
    };
    packet.extend_from_slice(body);
    Some(packet)
}

/// What is summed up beside the transport's own bytes.
fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Option<Vec<u8>> {
    let mut header = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => return None,
    };
    header.extend_from_slice(&u32::try_from(length).ok()?.to_be_bytes());
    header.extend_from_slice(&[0, 0, 0, protocol]);
    Some(header)
}

/// The sum of the internet's protocols (RFC 1071). Only the last part may have an odd length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words =
        parts.iter().flat_map(|part| part.chunks(2)).map(|word| u64::from(word[0]) << 8 | u64::from(word.get(1).copied().unwrap_or(0)));
    let mut sum: u64 = words.sum();
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // It fits, as was seen just now.
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_datagram_is_what_the_kernel_would_write() {
        let packet = datagram(at("10.0.0.1:53"), at("10.0.0.2:1000"), b"abc").unwrap();
        assert_eq!(packet[..10], [0x45, 0, 0, 31, 0, 0, 0x40, 0, 64, 17]);
        assert_eq!(packet[12..26], [10, 0, 0, 1, 10, 0, 0, 2, 0, 53, 3, 0xe8, 0, 11]);
        assert_eq!((checksum(&[&packet[..20]]), &packet[28..]), (0, &b"abc"[..]));
        for (from, to) in [("10.0.0.1:53", "10.0.0.2:1000"), ("[fd00::1]:53", "[fd00::2]:1000")] {
            for length in [0, 1, 2, 60_000] {
                let packet = datagram(at(from), at(to), &vec![7; length]).unwrap();
                let header = if at(from).is_ipv4() { IPV4_HEADER } else { IPV6_HEADER };
                let pseudo = pseudo_header(at(from).ip(), at(to).ip(), UDP, packet.len() - header).unwrap();
                assert_eq!(checksum(&[&pseudo, &packet[header..]]), 0, "{from} {length}");
            }
        }
        assert_eq!(datagram(at("10.0.0.1:53"), at("10.0.0.2:1000"), &[0; 65_508]), None);
        assert_eq!(datagram(at("10.0.0.1:53"), at("[fd00::2]:1000"), b""), None);
    }

    #[test]
    fn a_refusal_has_what_it_refuses_within() {
        let packet = unreachable(at("10.0.0.1:1000"), at("8.8.8.8:443")).unwrap();
        assert_eq!((packet[9], &packet[12..20]), (ICMP, &[8, 8, 8, 8, 10, 0, 0, 1][..]));
        assert_eq!((&packet[20..22], checksum(&[&packet[20..]])), (&[3, 3][..], 0));
        assert_eq!(packet[40..52], [10, 0, 0, 1, 8, 8, 8, 8, 3, 0xe8, 1, 187]);
        let packet = unreachable(at("[fd00::1]:1000"), at("[2606:4700::1]:443")).unwrap();
        let pseudo = pseudo_header(at("[2606:4700::1]:443").ip(), at("[fd00::1]:1000").ip(), ICMPV6, packet.len() - 40).unwrap();
        assert_eq!((packet[6], &packet[40..42], checksum(&[&pseudo, &packet[40..]])), (ICMPV6, &[1, 4][..], 0));
        assert_eq!(packet[88..92], [3, 0xe8, 1, 187]);
    }
}
