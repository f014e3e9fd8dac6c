//! The machine's control socket: one JSON object a line (`docs/interop/qmp-spec`).
//!
//! The crate `qapi` is not used: of the some 1,500 types that it generates we would need eight commands, and it cannot pass a descriptor, which is
//! how a machine's state gets into a file where QEMU may start no programs.

use std::{
    io::{self, BufRead, BufReader, IoSlice, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use sandbar_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use crate::machine::process::HostProcess;

const OPERATION: &str = "qemu";
/// How long QEMU may take for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Most bytes of a line: answers here are short.
const MOST_LINE: u64 = 1 << 20;

/// A connection to a machine's control socket. QEMU serves one at a time; another one waits.
pub(super) struct Qmp {
    stream: BufReader<UnixStream>,
    /// `7.2`: the form of a machine's state changes with the minor version.
    pub(super) version: String,
}

impl Qmp {
    /// Connects to the socket, which may take a moment to be there as long as the machine is. Blocks.
    ///
    /// # Errors
    /// `Unavailable` when nobody answers.
    pub(super) fn connect(folder: &Path, patience: Duration, machine: &HostProcess) -> Result<Self> {
        let unavailable = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, OPERATION, "the machine's control socket does not answer").with_source(error)
        };
        let end = Instant::now() + patience;
        let stream = loop {
            match crate::machine::socket::connect_blocking(folder, super::QMP_SOCKET) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() >= end || !machine.is_alive() => return Err(unavailable(error)),
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).and_then(|()| stream.set_write_timeout(Some(PATIENCE))).map_err(unavailable)?;
        let mut qmp = Self { stream: BufReader::new(stream), version: String::new() };
        let greeting = qmp.line()?;
        let version = greeting.pointer("/QMP/version/qemu").and_then(|version| {
            let number = |name: &str| version.get(name).and_then(Value::as_u64);
            Some(format!("{}.{}", number("major")?, number("minor")?))
        });
        if let Some(version) = version {
            qmp.version = version;
        } else {
            return Err(Error::new(ErrorKind::Corrupt, OPERATION, "the machine's control socket is something else's"));
        }
        qmp.execute("qmp_capabilities", &Value::Null)?;
        Ok(qmp)
    }

    /// Executes a command, and gives what it returns. Blocks.
    ///
    /// # Errors
    /// What QEMU says.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.send(command, arguments, None)
    }

    /// Gives QEMU a descriptor, to be used by this name.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub(super) fn give(&mut self, name: &str, descriptor: impl AsFd) -> Result<()> {
        self.send("getfd", &json!({ "fdname": name }), Some(descriptor.as_fd())).map(drop)
    }

    fn send(&mut self, command: &str, arguments: &Value, descriptor: Option<BorrowedFd<'_>>) -> Result<Value> {
        let mut request = json!({ "execute": command });
        if !arguments.is_null() {
            request["arguments"] = arguments.clone();
        }
        let line = format!("{request}\n");
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, OPERATION, "the machine does not take a command").with("command", command).with_source(error)
        };
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        // Short enough for the socket's buffer, so that it is sent as a whole.
        let sent = sendmsg(self.stream.get_ref(), &[IoSlice::new(line.as_bytes())], &mut ancillary, SendFlags::NOSIGNAL);
        if sent.map_err(|errno| failed(errno.into()))? != line.len() {
            return Err(failed(io::ErrorKind::WriteZero.into()));
        }
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                let said = error.get("desc").and_then(Value::as_str).unwrap_or("an error without a description").to_owned();
                return Err(Error::new(ErrorKind::Internal, OPERATION, "the machine refuses a command")
                    .with("command", command)
                    .with_source(io::Error::other(said)));
            }
            if let Some(returned) = answer.get_mut("return") {
                return Ok(returned.take());
            }
            // An event.
        }
    }

    fn line(&mut self) -> Result<Value> {
        let failed = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, OPERATION, "the machine does not answer on its control socket").with_source(error)
        };
        let mut line = String::new();
        (&mut self.stream).take(MOST_LINE).read_line(&mut line).map_err(failed)?;
        if line.is_empty() {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        serde_json::from_str(&line).map_err(|error| failed(error.into()))
    }
}
