use std::{fs, net::SocketAddr, os::unix::ffi::OsStrExt};

use sandbar_protocol::Claimed;

/// Most processes that are looked through for a connection's.
const MOST: usize = 4096;

/// The process at the other end of a connection from inside, if it can be found.
pub(super) async fn of(peer: SocketAddr) -> Option<Claimed> {
    // Files of /proc, but all of them.
    tokio::task::spawn_blocking(move || find(inode(peer)?)).await.ok()?
}

/// The number of the socket that has this address, by the kernel's table.
fn inode(peer: SocketAddr) -> Option<u64> {
    let table = fs::read_to_string(if peer.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" }).ok()?;
    // `ADDRESS:PORT`, the address as hexadecimal words of the machine's byte order.
    let port = format!(":{:04X}", peer.port());
    let words: String = match peer {
        SocketAddr::V4(peer) => format!("{:08X}", u32::from_ne_bytes(peer.ip().octets())),
        SocketAddr::V6(peer) => peer
            .ip()
            .octets()
            .chunks_exact(4)
            .map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
            .collect(),
    };
    let own = words + &port;
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        (fields.next()? == own).then_some(())?;
        fields.nth(7)?.parse().ok().filter(|inode| *inode != 0)
    })
}

fn find(inode: u64) -> Option<Claimed> {
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // The agent's own connections are many, and none of them is looked for.
    for pid in numbers.filter(|pid| *pid != std::process::id()).take(MOST) {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let holds = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str().as_bytes() == wanted.as_bytes());
        if descriptors.flatten().any(holds) {
            let mut name = fs::read(format!("/proc/{pid}/comm")).ok()?;
            name.truncate(name.iter().position(|byte| *byte == b'\n').unwrap_or(name.len()).min(15));
            return Some(Claimed { pid, name });
        }
    }
    None
}
