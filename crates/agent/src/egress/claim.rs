use std::{
    collections::VecDeque,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use sandbar_protocol::Claimed;
use tokio::sync::{Semaphore, oneshot};

use super::{netlink, redirect::TCP};

/// Most processes that are looked through for a connection's.
const MOST: usize = 4096;
/// How long a connection waits for it where processes are many: a name in the log is not worth more.
const PATIENCE: Duration = Duration::from_millis(500);
/// It reads folders and small files.
const STACK: usize = 256 << 10;
/// Processes that are looked at first, since they were found last.
const RECENT: usize = 8;

/// One look at a time: whoever makes a thousand connections gets one thread's attention.
static TURN: Semaphore = Semaphore::const_new(1);
/// The last to be found first.
static FOUND: Mutex<VecDeque<u32>> = Mutex::new(VecDeque::new());

/// The process that has the socket of this protocol with this address of its own and that one at its other end, if it can be found soon.
pub(super) async fn of(protocol: u8, own: SocketAddr, remote: SocketAddr) -> Option<Claimed> {
    let look = async {
        let turn = TURN.acquire().await.ok()?;
        let (tell, found) = oneshot::channel();
        // Files of /proc, and it may be all of them. A thread of its own may be refused, where a pool's would end the agent: those who have used up the
        // sandbox's processes stay nameless.
        let look = move || {
            let _turn = turn;
            let _ = tell.send(inode(protocol, own, remote).and_then(find));
        };
        thread::Builder::new().stack_size(STACK).spawn(look).ok()?;
        found.await.ok()?
    };
    tokio::time::timeout(PATIENCE, look).await.ok()?
}

/// The number of the socket, where the kernel can be asked for one.
pub(super) fn socket(protocol: u8, own: SocketAddr, remote: SocketAddr) -> Option<u64> {
    asked(protocol, own, remote).ok()
}

/// The number of the socket. Where the kernel cannot be asked for one, it is looked for in the text of them all, which takes milliseconds where the table is
/// a large host's.
fn inode(protocol: u8, own: SocketAddr, remote: SocketAddr) -> Option<u64> {
    asked(protocol, own, remote).ok().or_else(|| listed(protocol, own))
}

/// The number of the socket as sock_diag(7) knows it.
fn asked(protocol: u8, own: SocketAddr, remote: SocketAddr) -> io::Result<u64> {
    const FAMILY: u32 = 4;
    const BY_FAMILY: u16 = 20;
    /// Where `struct inet_diag_msg` has the number.
    const NUMBER: usize = 68;
    let family = if own.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // Those who receive datagrams are looked for with both ends the other way round.
    let (from, to) = if protocol == TCP { (own, remote) } else { (remote, own) };
    // `struct inet_diag_req_v2`: family, protocol, no extensions, all states; ports and addresses, of any device, with any cookie.
    let mut request = vec![u8::try_from(family).map_err(io::Error::other)?, protocol, 0, 0];
    request.extend_from_slice(&u32::MAX.to_ne_bytes());
    request.extend([from.port(), to.port()].into_iter().flat_map(u16::to_be_bytes));
    for address in [from.ip(), to.ip()] {
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes = address.octets(),
        }
        request.extend_from_slice(&bytes);
    }
    request.extend_from_slice(&[0; 4]);
    request.extend_from_slice(&[0xff; 8]);
    let answer = netlink::ask(FAMILY, BY_FAMILY, &request)?;
    let number = answer.get(NUMBER..NUMBER + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    number.map(u64::from).filter(|number| *number != 0).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// The number of the socket that has this address, by the kernel's table as a text.
fn listed(protocol: u8, own: SocketAddr) -> Option<u64> {
    let name = if protocol == TCP { "tcp" } else { "udp" };
    let table = fs::read_to_string(format!("/proc/self/net/{name}{}", if own.is_ipv4() { "" } else { "6" })).ok()?;
    // `ADDRESS:PORT`, the address as hexadecimal words of the machine's byte order.
    let port = format!(":{:04X}", own.port());
    let words: String = match own {
        SocketAddr::V4(own) => format!("{:08X}", u32::from_ne_bytes(own.ip().octets())),
        SocketAddr::V6(own) => own
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
    let recent = FOUND.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let pid = recent.iter().copied().find(|pid| holds(*pid, &wanted)).or_else(|| {
        let processes = fs::read_dir("/proc").ok()?.flatten();
        // The agent's own sockets are many, and none of them is looked for.
        let is_looked_at = |pid: &u32| *pid != std::process::id() && !recent.contains(pid);
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).filter(is_looked_at);
        // Whoever connects has more often begun just now than long ago.
        let mut numbers: Vec<u32> = numbers.take(MOST).collect();
        numbers.sort_unstable_by(|one, other| other.cmp(one));
        numbers.into_iter().find(|pid| holds(*pid, &wanted))
    })?;
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    found.retain(|known| *known != pid);
    found.push_front(pid);
    found.truncate(RECENT);
    drop(found);
    let mut name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    name.truncate(name.iter().position(|byte| *byte == b'\n').unwrap_or(name.len()).min(15));
    Some(Claimed { pid, name })
}

/// Whether a process has this socket.
fn holds(pid: u32, socket: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    // A new one has the highest number, where there are many.
    let descriptors: Vec<_> = descriptors.flatten().collect();
    let is_it = |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str().as_bytes() == socket.as_bytes());
    descriptors.iter().rev().any(is_it)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::{super::redirect::UDP, *};

    #[test]
    fn a_socket_is_found_by_its_addresses() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (own, remote) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let number = rustix::fs::fstat(&client).unwrap().st_ino;
            assert_eq!(listed(TCP, own), Some(number));
            assert_eq!(inode(TCP, own, remote), Some(number));
            let datagrams = UdpSocket::bind(address).unwrap();
            let number = rustix::fs::fstat(&datagrams).unwrap().st_ino;
            assert_eq!(inode(UDP, datagrams.local_addr().unwrap(), remote), Some(number));
        }
    }
}
