use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};

/// IPv4 ranges that are not the internet: IANA's special-purpose registry (RFC 6890 and its updates), multicast, and the reserved last sixteenth.
const IPV4: [(Ipv4Addr, u32, &str); 17] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "this network"),
    (Ipv4Addr::new(10, 0, 0, 0), 8, "private"),
    (Ipv4Addr::new(100, 64, 0, 0), 10, "a carrier's own"),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local, as are the metadata services of clouds"),
    (Ipv4Addr::new(172, 16, 0, 0), 12, "private"),
    (Ipv4Addr::new(192, 0, 0, 0), 24, "reserved for protocols"),
    (Ipv4Addr::new(192, 0, 2, 0), 24, "for documentation"),
    (Ipv4Addr::new(192, 31, 196, 0), 24, "of the AS112 project"),
    (Ipv4Addr::new(192, 52, 193, 0), 24, "of multicast tunnels"),
    (Ipv4Addr::new(192, 88, 99, 0), 24, "of 6to4 relays"),
    (Ipv4Addr::new(192, 168, 0, 0), 16, "private"),
    (Ipv4Addr::new(192, 175, 48, 0), 24, "of the AS112 project"),
    (Ipv4Addr::new(198, 18, 0, 0), 15, "for benchmarks"),
    (Ipv4Addr::new(198, 51, 100, 0), 24, "for documentation"),
    (Ipv4Addr::new(203, 0, 113, 0), 24, "for documentation"),
    (Ipv4Addr::new(224, 0, 0, 0), 3, "multicast or reserved"),
];

/// The same within IPv6's global unicast range, 2000::/3; everything outside that range is special.
const IPV6: [(Ipv6Addr, u32, &str); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, "reserved for protocols"),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, "for documentation"),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, "6to4, which hides an IPv4 address"),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, "for documentation"),
];

/// Why an address is not one of the internet, or `None` if it is. An IPv4 address in IPv6's clothes (`::ffff:10.0.0.1`) is taken as what it is.
pub fn special_purpose(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            IPV4.iter().find(|(network, length, _)| (address.to_bits() ^ network.to_bits()) >> (32 - length) == 0).map(|(_, _, what)| *what)
        }
        IpAddr::V6(address) if address.is_loopback() => Some("loopback"),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some("link-local"),
        IpAddr::V6(address) if address.is_unique_local() => Some("private"),
        IpAddr::V6(address) if address.is_multicast() => Some("multicast"),
        IpAddr::V6(address) if address.segments()[0] >> 13 != 1 => Some("not a global unicast address"),
        IpAddr::V6(address) => IPV6
            .iter()
            .find(|(network, length, _)| (address.to_bits() ^ network.to_bits()) >> (128 - length) == 0)
            .map(|(_, _, what)| *what),
    }
}

/// IPv6's global unicast range, 2000::/3.
const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);

/// The special ranges of a network's own version, within the global unicast range where it is IPv6.
fn ranges_like(network: &IpNet) -> impl Iterator<Item = IpNet> {
    let four = IPV4.iter().map(|(first, length, _)| (IpAddr::V4(*first), *length));
    let six = IPV6.iter().map(|(first, length, _)| (IpAddr::V6(*first), *length));
    let is_four = matches!(network, IpNet::V4(_));
    four.chain(six)
        .filter(move |(first, _)| first.is_ipv4() == is_four)
        .filter_map(|(first, length)| IpNet::new(first, u8::try_from(length).ok()?).ok())
}

/// Whether every address of a network is special, and all of one kind: only such a network lists what is not the internet's. `0.0.0.0/0` does not.
pub(super) fn is_special_network(network: &IpNet) -> bool {
    match network {
        IpNet::V6(six) if !GLOBAL_UNICAST.contains(six) => !six.contains(&GLOBAL_UNICAST),
        _ => ranges_like(network).any(|range| range.contains(network)),
    }
}

/// Whether some address of a network is special.
pub(super) fn has_special(network: &IpNet) -> bool {
    match network {
        IpNet::V6(six) if !GLOBAL_UNICAST.contains(six) => true,
        _ => ranges_like(network).any(|range| range.contains(network) || network.contains(&range)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_special_as_a_whole_in_part_or_not_at_all() {
        for (network, whole, part) in [
            ("10.0.0.0/8", true, true),
            ("10.1.0.0/16", true, true),
            ("127.0.0.1/32", true, true),
            ("169.254.169.254/32", true, true),
            ("10.0.0.0/7", false, true),
            ("0.0.0.0/0", false, true),
            ("0.0.0.0/1", false, true),
            ("128.0.0.0/1", false, true),
            ("8.8.8.0/24", false, false),
            ("93.184.215.14/32", false, false),
            ("::/0", false, true),
            ("::/1", false, true),
            ("fd00::/8", true, true),
            ("fe80::/10", true, true),
            ("::1/128", true, true),
            ("2000::/3", false, true),
            ("2001:db8:1::/48", true, true),
            ("2001:d00::/24", false, true),
            ("2606:4700::/32", false, false),
        ] {
            let network = network.parse().unwrap();
            assert_eq!((is_special_network(&network), has_special(&network)), (whole, part), "{network}");
        }
    }

    #[test]
    fn the_internet_is_told_from_what_is_not() {
        for address in
            ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8"]
        {
            assert_eq!(special_purpose(address.parse().unwrap()), None, "{address}");
        }
        for address in [
            "0.0.0.0",
            "10.255.255.255",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:a00:1::",
            "3fff::1",
            "4000::1",
        ] {
            assert!(special_purpose(address.parse().unwrap()).is_some(), "{address}");
        }
    }
}
