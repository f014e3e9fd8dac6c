//! Unix sockets in folders whose paths may be long.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStrExt, net::UnixStream as StdStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, fstat, openat},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with},
};
use tokio::net::UnixStream;

/// The name of the agent's socket in the generation's folder, whoever makes it.
pub use sandbar_protocol::AGENT_SOCKET;

/// `sun_path` has 108 bytes, the last for the NUL.
const LONGEST: usize = 107;
/// Connections that wait for the agent to accept them. The kernel's own limit (`net.core.somaxconn`) is 4096 since Linux 5.4.
const BACKLOG: i32 = 1024;
/// How long a full backlog is waited for: a frozen agent does not accept.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes the listening socket `name` in `folder`, replacing one that an earlier boot left there. For the agent to inherit.
///
/// # Errors
/// Of the kernel.
pub fn listen_in(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    match std::fs::remove_file(folder.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (address, _held) = address(folder, name)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Connects to the socket `name` in `folder`, however long its path is. Waits only while the backlog is full.
///
/// # Errors
/// `ConnectionRefused` or `NotFound` when nobody listens; `TimedOut` when the backlog stays full.
pub async fn connect_in(folder: &Path, name: &str) -> io::Result<UnixStream> {
    let (address, _held) = address(folder, name)?;
    let begun = Instant::now();
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match connect(&socket, &address) {
            Ok(()) => return UnixStream::from_std(StdStream::from(socket)),
            // A unix socket never connects "in progress": it is there at once, or the backlog is full.
            Err(Errno::AGAIN) if begun.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(Errno::AGAIN) => return Err(io::Error::new(io::ErrorKind::TimedOut, "too many connections wait for the agent")),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// The same for a folder that the sandbox can write: what is there under that name may be anything, and only a socket in the folder itself is connected
/// to, never what a symbolic link names.
///
/// # Errors
/// As [`connect_in`]; `InvalidData` when it is no socket.
pub async fn connect_in_hostile(folder: &Path, name: &str) -> io::Result<UnixStream> {
    let socket = hold(folder, name)?;
    connect_in(Path::new("/proc/self/fd"), &socket.as_raw_fd().to_string()).await
}

/// The same for calls that block.
///
/// # Errors
/// As [`connect_in_hostile`]; `WouldBlock` when its backlog is full.
pub fn connect_blocking_in_hostile(folder: &Path, name: &str) -> io::Result<StdStream> {
    let socket = hold(folder, name)?;
    connect_blocking(Path::new("/proc/self/fd"), &socket.as_raw_fd().to_string())
}

/// Holds a socket of a folder that the sandbox can write.
fn hold(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let folder = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let socket = openat(&folder, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&socket)?.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the agent's socket was replaced by something else"));
    }
    Ok(socket)
}

/// Connects to the socket `name` in `folder`, for calls that block.
///
/// # Errors
/// As [`connect_in`]; `WouldBlock` when its backlog is full.
pub fn connect_blocking(folder: &Path, name: &str) -> io::Result<StdStream> {
    let (address, _held) = address(folder, name)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&socket, &address)?;
    Ok(StdStream::from(socket))
}

/// An address that fits: the path itself, or through a descriptor of the folder, which must be held until it was used.
fn address(folder: &Path, name: &str) -> io::Result<(SocketAddrUnix, Option<OwnedFd>)> {
    let path = folder.join(name);
    if path.as_os_str().as_bytes().len() <= LONGEST {
        return Ok((SocketAddrUnix::new(path)?, None));
    }
    let held = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path: PathBuf = ["/proc/self/fd", &held.as_raw_fd().to_string(), name].iter().collect();
    Ok((SocketAddrUnix::new(path)?, Some(held)))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Connects until nobody listens: a process that another test starts meanwhile holds a copy of the listener until it executes its program.
    async fn until_nobody_listens(connect: impl AsyncFn() -> io::Result<UnixStream>) -> io::Error {
        loop {
            match connect().await {
                Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(1)).await,
                Err(error) => return error,
            }
        }
    }

    #[tokio::test]
    async fn a_path_longer_than_an_address_can_be_connected() {
        let home = tempfile::tempdir().unwrap();
        for folder in [home.path().join("short"), home.path().join("x".repeat(200))] {
            std::fs::create_dir(&folder).unwrap();
            for _again in 0..2 {
                let listener = listen_in(&folder, AGENT_SOCKET).unwrap();
                let mut client = connect_in(&folder, AGENT_SOCKET).await.unwrap();
                client.write_all(b"hello").await.unwrap();
                let (mut server, _) = std::os::unix::net::UnixListener::from(listener).accept().unwrap();
                let mut heard = [0; 5];
                std::io::Read::read_exact(&mut server, &mut heard).unwrap();
                drop(server);
                assert_eq!(&heard, b"hello");
                assert_eq!(client.read(&mut heard).await.unwrap(), 0);
            }
        }
    }

    #[tokio::test]
    async fn what_a_sandbox_puts_in_the_place_of_its_socket_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (inside, outside) = (home.path().join("inside"), home.path().join("outside"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::create_dir(&outside).unwrap();
        let listener = listen_in(&inside, AGENT_SOCKET).unwrap();
        connect_in_hostile(&inside, AGENT_SOCKET).await.unwrap();
        drop(listener);
        let refused = until_nobody_listens(async || connect_in_hostile(&inside, AGENT_SOCKET).await).await;
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let _of_the_host = listen_in(&outside, AGENT_SOCKET).unwrap();
        std::fs::remove_file(inside.join(AGENT_SOCKET)).unwrap();
        assert_eq!(connect_in_hostile(&inside, AGENT_SOCKET).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        std::os::unix::fs::symlink(outside.join(AGENT_SOCKET), inside.join(AGENT_SOCKET)).unwrap();
        assert_eq!(connect_in_hostile(&inside, AGENT_SOCKET).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn nobody_listening_is_told_at_once() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(connect_in(home.path(), AGENT_SOCKET).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        drop(listen_in(home.path(), AGENT_SOCKET).unwrap());
        let refused = until_nobody_listens(async || connect_in(home.path(), AGENT_SOCKET).await).await;
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
