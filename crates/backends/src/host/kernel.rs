//! What this kernel can do.

use std::sync::OnceLock;

use rustix::net::{AddressFamily, RawProtocol, SocketFlags, SocketType, socket_with};

/// Major and minor version. Nothing at all when it cannot be read.
fn version() -> (u32, u32) {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    *VERSION.get_or_init(|| rustix::system::uname().release().to_str().ok().and_then(parse).unwrap_or_default())
}

fn parse(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether `overlay` takes descriptors of layers, and layers that are mounted nowhere.
pub(crate) fn takes_detached_layers() -> bool {
    version() >= (6, 15)
}

/// Whether RLIMIT_NPROC counts a user's processes in each user namespace apart. Before, it counted all of the host's user.
pub(crate) fn counts_processes_by_namespace() -> bool {
    version() >= (5, 14)
}

/// Whether it has a packet filter, which what leaves is redirected with.
pub(crate) fn filters_packets() -> bool {
    /// `NETLINK_NETFILTER`.
    const NETFILTER: u32 = 12;
    let protocol = RawProtocol::new(NETFILTER).map(rustix::net::Protocol::from_raw);
    socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).is_ok()
}

/// The version, for messages.
pub(crate) fn describe() -> String {
    format!("Linux {}.{}", version().0, version().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(parse("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(parse("5.15.0"), Some((5, 15)));
        assert_eq!(parse("6.1-rc3"), Some((6, 1)));
        assert_eq!(parse("unknown"), None);
    }
}
