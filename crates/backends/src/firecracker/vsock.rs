use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream as StdStream,
    path::Path,
    time::Duration,
};

use sandbar_protocol::VSOCK_PORT;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::machine::socket::{connect_blocking_in_hostile, connect_in_hostile};

/// Firecracker's end of the machine's vsock device, in its room.
pub(super) const SOCKET: &str = "vsock.sock";
/// Most connections that leave at a time: Firecracker has 1,023 for a machine (its `vsock/unix/muxer.rs`), and the host needs some to reach the agent.
pub(super) const MOST_LEAVING: u32 = 768;
/// How long Firecracker and the guest's kernel may take to say yes or no. A frozen machine says neither.
const PATIENCE: Duration = Duration::from_secs(2);
/// `OK `, a port and a line's end.
const LONGEST: usize = 32;

/// Connects to the agent.
///
/// # Errors
/// `ConnectionRefused` when nothing listens in the guest (Firecracker closes the connection), `TimedOut` when nobody says anything.
pub(super) async fn connect(folder: &Path) -> io::Result<UnixStream> {
    let shake = async {
        let mut stream = connect_in_hostile(folder, SOCKET).await?;
        stream.write_all(request().as_bytes()).await?;
        let mut answer = Answer::default();
        // Byte by byte: what follows the line is the agent's.
        while !answer.take(stream.read_u8().await.map_err(refused)?)? {}
        Ok(stream)
    };
    timeout(PATIENCE, shake).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The same for calls that block.
///
/// # Errors
/// As [`connect`].
pub(super) fn connect_blocking_in(folder: &Path) -> io::Result<StdStream> {
    let mut stream = connect_blocking_in_hostile(folder, SOCKET)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request().as_bytes())?;
    let mut answer = Answer::default();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).map_err(refused)?;
        if answer.take(byte[0])? {
            return Ok(stream);
        }
    }
}

fn request() -> String {
    format!("CONNECT {VSOCK_PORT}\n")
}

fn refused(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { io::ErrorKind::ConnectionRefused.into() } else { error }
}

/// The line with which Firecracker says that the guest took the connection.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Answer {
    /// One more byte; whether it was the last.
    fn take(&mut self, byte: u8) -> io::Result<bool> {
        if byte == b'\n' {
            return if self.0.starts_with(b"OK ") { Ok(true) } else { Err(io::ErrorKind::InvalidData.into()) };
        }
        self.0.push(byte);
        if self.0.len() > LONGEST { Err(io::ErrorKind::InvalidData.into()) } else { Ok(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(text: &[u8]) -> io::Result<bool> {
        let mut answer = Answer::default();
        for byte in text {
            if answer.take(*byte)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    #[test]
    fn only_a_yes_is_taken_as_one() {
        assert!(answers(b"OK 1073741824\n").unwrap());
        assert!(!answers(b"OK 10").unwrap());
        assert!(answers(b"NO\n").is_err());
        assert!(answers(&[b'O'; 64]).is_err());
    }
}
