//! Firecracker's interface: HTTP on a socket, one request a connection.

use std::{
    io::{self, Read, Write},
    path::Path,
    time::{Duration, Instant},
};

use sandbar_core::{Error, ErrorKind, Result};
use serde_json::Value;

use crate::machine::socket::connect_blocking_in_hostile;

/// Firecracker's socket, in its room.
pub(super) const SOCKET: &str = "api.sock";
const OPERATION: &str = "firecracker";
/// The most that an answer may be; they are short.
const MOST: usize = 64 << 10;
/// How long Firecracker may take for what takes no time.
const SOON: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(2);

/// The interface of the Firecracker in this room.
pub(super) struct Api<'a>(pub(super) &'a Path);

impl Api<'_> {
    /// Waits until it listens, or `is_alive` says that it never will. Blocks.
    ///
    /// # Errors
    /// `Unavailable`, `TimedOut`.
    pub(super) fn wait(&self, is_alive: impl Fn() -> bool) -> Result<()> {
        let end = Instant::now() + SOON;
        loop {
            match connect_blocking_in_hostile(self.0, SOCKET) {
                Ok(_) => return Ok(()),
                Err(error) if !is_alive() => {
                    return Err(Error::new(ErrorKind::Unavailable, OPERATION, "Firecracker ended before it listened").with_source(error));
                }
                Err(error) if Instant::now() > end => {
                    return Err(Error::new(ErrorKind::TimedOut, OPERATION, "Firecracker does not listen").with_source(error));
                }
                Err(_) => std::thread::sleep(LOOK),
            }
        }
    }

    /// Which Firecracker it is. Blocks.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub(super) fn version(&self) -> Result<String> {
        let said = self.ask("GET", "/version", None, SOON)?;
        let version = said.get("firecracker_version").and_then(Value::as_str).map(str::to_owned);
        version.ok_or_else(|| Error::new(ErrorKind::Corrupt, OPERATION, "Firecracker does not tell its version"))
    }

    /// Asks for a change. Blocks.
    ///
    /// # Errors
    /// `Unavailable`, with what Firecracker says, `ResourceExhausted` when it says that a disk is full, or when it does not answer within `patience`.
    pub(super) fn put(&self, path: &str, body: &Value, patience: Duration) -> Result<()> {
        self.ask("PUT", path, Some(body), patience).map(drop)
    }

    /// The same, of something that exists.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub(super) fn patch(&self, path: &str, body: &Value, patience: Duration) -> Result<()> {
        self.ask("PATCH", path, Some(body), patience).map(drop)
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>, patience: Duration) -> Result<Value> {
        let (status, said) = self.exchange(method, path, body, patience).map_err(|error| {
            Error::new(ErrorKind::Unavailable, OPERATION, "Firecracker does not answer").with("request", path).with_source(error)
        })?;
        let said: Value = serde_json::from_slice(&said).unwrap_or_default();
        if (200..300).contains(&status) {
            return Ok(said);
        }
        let fault = said.get("fault_message").and_then(Value::as_str).unwrap_or("it says no more");
        // It has only words for why it could not write.
        let is_full = ["No space left on device", "Disk quota exceeded", "File too large"].iter().any(|why| fault.contains(why));
        let kind = if is_full { ErrorKind::ResourceExhausted } else { ErrorKind::Unavailable };
        Err(Error::new(kind, OPERATION, format!("Firecracker refuses: {fault}")).with("request", path).with("status", status))
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&Value>, patience: Duration) -> io::Result<(u16, Vec<u8>)> {
        let mut stream = connect_blocking_in_hostile(self.0, SOCKET)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n");
        if !body.is_empty() {
            request.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        stream.write_all(format!("{request}\r\n{body}").as_bytes())?;
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                length => answer.extend_from_slice(&piece[..length]),
            }
            if let Some((status, body)) = parse(&answer)? {
                return Ok((status, body.to_owned()));
            }
            if answer.len() > MOST {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer has no end"));
            }
        }
    }
}

/// Status and body of an answer; `None` until it is whole.
fn parse(bytes: &[u8]) -> io::Result<Option<(u16, &[u8])>> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let (httparse::Status::Complete(begin), Some(status)) = (parsed, response.code) else { return Ok(None) };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.map_or(Some(0), |header| std::str::from_utf8(header.value).ok()?.trim().parse().ok());
    let length: usize = length.ok_or(io::ErrorKind::InvalidData)?;
    Ok(bytes[begin..].get(..length).map(|body| (status, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_when_it_is_whole() {
        let empty = b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";
        assert_eq!(parse(empty).unwrap(), Some((204, b"".as_slice())));
        assert_eq!(parse(&empty[..empty.len() - 1]).unwrap(), None);
        let fault = b"HTTP/1.1 400 \r\nContent-Length: 5\r\n\r\n{\"a\":";
        assert_eq!(parse(fault).unwrap(), Some((400, b"{\"a\":".as_slice())));
        assert_eq!(parse(&fault[..fault.len() - 1]).unwrap(), None);
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 \r\nContent-Length: much\r\n\r\n").is_err());
    }
}
