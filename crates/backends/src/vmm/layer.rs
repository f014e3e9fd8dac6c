use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Write},
    os::unix::{fs::DirBuilderExt, net::UnixStream},
    path::Path,
    time::Duration,
};

use sandbar_core::{Context, Error, ErrorKind, Result};
use sandbar_protocol::{
    FrameError, FrameKind, GetLayer, HEADER, Header, PREAMBLE, Preamble, Reply, Request, VERSION, encode_message, read_frame,
    reply::Answer, request::Operation,
};
use sandbar_tree::{OverlayNamespace, Owner, UnpackOptions, Whiteouts};

use crate::machine::answer;

const VERB: &str = "checkpoint";
/// How long an agent that has answered may be silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came.
pub(crate) struct Fetched {
    /// Bytes in files.
    pub(crate) bytes: u64,
    /// Files, folders and whatever else.
    pub(crate) files: u64,
}

/// Fetches the writable layer through a connection to the agent, and unpacks it into the folder `layer` of `into`, in the host's own form. As root
/// owners are kept, otherwise everything belongs to this user, and is root's in a guest again. The agent may take `patience` until it begins: its machine may still boot, and processes
/// have to stand still. Blocks.
///
/// # Errors
/// What the agent says; `Corrupt` when it makes no sense: the guest is not trusted.
pub(crate) fn fetch_layer(mut stream: UnixStream, into: &Path, patience: Duration) -> Result<Fetched> {
    let layer = into.join("layer");
    fs::DirBuilder::new().mode(0o700).create(&layer).context(VERB, || format!("cannot make {}", layer.display()))?;
    let mut ask = || -> std::result::Result<(), FrameError> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut request = bytes::BytesMut::from(VERSION.encode().as_slice());
        encode_message(&mut request, &Request { operation: Some(Operation::GetLayer(GetLayer {})) })?;
        stream.write_all(&request)?;
        Ok(())
    };
    let lost =
        |error: FrameError| Error::new(ErrorKind::Unavailable, VERB, "the agent does not give the writable layer").with_source(error);
    ask().map_err(lost)?;
    let mut preamble = [0; PREAMBLE];
    stream.read_exact(&mut preamble).map_err(|error| lost(error.into()))?;
    Preamble::decode(preamble).map_err(lost)?;
    let reply = read_frame(&mut stream).and_then(|frame| frame.ok_or(FrameError::Cut)?.message::<Reply>()).map_err(lost)?;
    match reply.answer {
        Some(Answer::Done(_)) => {}
        Some(Answer::Failure(failure)) => return Err(answer::failure(VERB, &failure)),
        _ => return Err(answer::nonsense(VERB, "an answer to another question")),
    }
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| lost(error.into()))?;
    let site = File::open(&layer).context(VERB, || format!("cannot open {}", layer.display()))?;
    let mut archive = Incoming { stream: BufReader::with_capacity(64 << 10, stream), left: 0, ended: false, failure: None };
    let is_root = rustix::process::geteuid().is_root();
    let options = UnpackOptions {
        owner: if is_root { Owner::Keep } else { Owner::Ignore },
        // The folder is closed to other users, and a sandbox has no new privileges or a kernel of its own.
        set_id: true,
        capabilities: is_root,
        whiteouts: Whiteouts::Oci(if is_root { OverlayNamespace::Trusted } else { OverlayNamespace::User }),
        ..UnpackOptions::default()
    };
    let unpacked = sandbar_tree::unpack(&mut archive, &site, &options);
    if let Some(failure) = archive.failure.take() {
        return Err(failure);
    }
    let unpacked = unpacked.map_err(|error| {
        let kind = match error.kind() {
            sandbar_tree::ErrorKind::LimitExceeded | sandbar_tree::ErrorKind::NoSpace => ErrorKind::ResourceExhausted,
            sandbar_tree::ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Corrupt,
        };
        let told = Error::new(kind, VERB, "the writable layer cannot be kept").with_source(error);
        match kind {
            ErrorKind::Unsupported => told.with_hint(
                "a plain user's state folder must be where attributes of users can be kept, which a tmpfs can from Linux 6.6 on: set SANDBAR_HOME",
            ),
            _ => told,
        }
    })?;
    Ok(Fetched { bytes: unpacked.bytes, files: unpacked.entries })
}

/// The payload of Bytes frames up to End.
struct Incoming {
    stream: BufReader<UnixStream>,
    left: usize,
    ended: bool,
    failure: Option<Error>,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 && !self.ended {
            let mut header = [0; HEADER];
            self.stream.read_exact(&mut header)?;
            let header = Header::decode(header)?;
            match header.kind {
                FrameKind::Bytes => self.left = header.length,
                FrameKind::End => self.ended = true,
                FrameKind::Message => {
                    let mut message = vec![0; header.length];
                    self.stream.read_exact(&mut message)?;
                    self.failure = Some(said(message));
                    return Err(io::Error::other("the agent gave up"));
                }
                other => return Err(FrameError::UnexpectedKind(other).into()),
            }
        }
        let wanted = self.left.min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let length = self.stream.read(&mut buffer[..wanted])?;
        if length == 0 {
            return Err(FrameError::Cut.into());
        }
        self.left -= length;
        Ok(length)
    }
}

/// Why an answer that had begun was broken off.
fn said(message: Vec<u8>) -> Error {
    use sandbar_protocol::{Event, event::What};
    match <Event as prost::Message>::decode(message.as_slice()) {
        Ok(Event { what: Some(What::Failure(failure)) }) => answer::failure(VERB, &failure),
        _ => answer::nonsense(VERB, "a message in the middle of an archive"),
    }
}
