use std::{fmt, io};

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::Preamble;

/// Bytes of a frame's header.
pub const HEADER: usize = 5;
/// Most bytes of a protobuf message: an exec with a large environment, a batch of directory entries.
pub const MAX_MESSAGE: usize = 4 << 20;
/// Most bytes of one raw frame. At this size the header's cost vanishes, and two of them fit a socket's buffer.
pub const MAX_BULK: usize = 256 << 10;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A protobuf message.
    Message = 0,
    /// Raw bytes: stdin, the content of a file, a tar stream.
    Bytes = 1,
    /// Raw bytes of standard output, or of the terminal.
    Stdout = 2,
    /// Raw bytes of standard error.
    Stderr = 3,
    /// The end of [`Bytes`](Self::Bytes); no payload. A connection that ends without it was cut.
    End = 4,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Message, Self::Bytes, Self::Stdout, Self::Stderr, Self::End].into_iter().find(|kind| *kind as u8 == byte)
    }

    const fn limit(self) -> usize {
        match self {
            Self::Message => MAX_MESSAGE,
            Self::Bytes | Self::Stdout | Self::Stderr => MAX_BULK,
            Self::End => 0,
        }
    }
}

/// A validated header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What follows.
    pub kind: FrameKind,
    /// How many bytes follow; within the kind's limit.
    pub length: usize,
}

impl Header {
    /// As bytes.
    pub fn encode(self) -> [u8; HEADER] {
        let [a, b, c, d] = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        [a, b, c, d, self.kind as u8]
    }

    /// From bytes. Nothing has to be allocated before this has said yes.
    ///
    /// # Errors
    /// `UnknownKind` or `TooLong`.
    pub fn decode(bytes: [u8; HEADER]) -> Result<Self, FrameError> {
        let [a, b, c, d, kind] = bytes;
        let kind = FrameKind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > kind.limit() { Err(FrameError::TooLong { kind, length }) } else { Ok(Self { kind, length }) }
    }
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: FrameKind,
    /// Its payload.
    pub payload: Bytes,
}

impl Frame {
    /// Decodes the payload as a message.
    ///
    /// # Errors
    /// `UnexpectedKind` for raw bytes, `Malformed` for bytes that are no such message.
    pub fn message<M: Message + Default>(self) -> Result<M, FrameError> {
        if self.kind != FrameKind::Message {
            return Err(FrameError::UnexpectedKind(self.kind));
        }
        M::decode(self.payload).map_err(|error| FrameError::Malformed(error.to_string()))
    }
}

/// Appends a message with its header.
///
/// # Errors
/// `TooLong` for a message over [`MAX_MESSAGE`].
pub fn encode_message(buffer: &mut BytesMut, message: &impl Message) -> Result<(), FrameError> {
    let length = message.encoded_len();
    if length > MAX_MESSAGE {
        return Err(FrameError::TooLong { kind: FrameKind::Message, length });
    }
    buffer.reserve(HEADER + length);
    buffer.put_slice(&Header { kind: FrameKind::Message, length }.encode());
    message.encode(buffer).map_err(|error| FrameError::Malformed(error.to_string()))
}

/// Appends a frame of raw bytes with its header.
///
/// # Errors
/// `TooLong` for a payload over the kind's limit.
pub fn encode_frame(buffer: &mut BytesMut, kind: FrameKind, payload: &[u8]) -> Result<(), FrameError> {
    if payload.len() > kind.limit() {
        return Err(FrameError::TooLong { kind, length: payload.len() });
    }
    buffer.reserve(HEADER + payload.len());
    buffer.put_slice(&Header { kind, length: payload.len() }.encode());
    buffer.put_slice(payload);
    Ok(())
}

/// Why a peer could not be understood.
#[derive(Debug)]
pub enum FrameError {
    /// The other side is no sandbar.
    BadMagic,
    /// The other side speaks another major version.
    Version(Preamble),
    /// A header names a kind that does not exist.
    UnknownKind(u8),
    /// A header or payload is over its kind's limit.
    TooLong {
        /// The kind.
        kind: FrameKind,
        /// The length that was claimed.
        length: usize,
    },
    /// A frame of a kind that has no place here.
    UnexpectedKind(FrameKind),
    /// A message that cannot be decoded, or lacks what it must have.
    Malformed(String),
    /// The connection ended in the middle of something.
    Cut,
    /// The connection failed.
    Io(io::Error),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic => f.write_str("the other side does not speak this protocol"),
            Self::Version(other) => write!(f, "the other side speaks version {}.{} of the protocol", other.major, other.minor),
            Self::UnknownKind(kind) => write!(f, "a frame of unknown kind {kind}"),
            Self::TooLong { kind, length } => write!(f, "a {kind:?} frame of {length} bytes is over the limit of {}", kind.limit()),
            Self::UnexpectedKind(kind) => write!(f, "a {kind:?} frame has no place here"),
            Self::Malformed(what) => write!(f, "malformed message: {what}"),
            Self::Cut => f.write_str("the connection ended early"),
            Self::Io(_) => f.write_str("the connection failed"),
        }
    }
}

impl std::error::Error for FrameError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Self::Io(error) = self { Some(error) } else { None }
    }
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Cut } else { Self::Io(error) }
    }
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(error) => error,
            FrameError::Cut => Self::new(io::ErrorKind::UnexpectedEof, FrameError::Cut),
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_over_the_limit_are_refused_before_anything_is_read() {
        let header = [0xff, 0xff, 0xff, 0xff, FrameKind::Message as u8];
        assert!(matches!(Header::decode(header), Err(FrameError::TooLong { .. })));
        assert!(matches!(Header::decode([0, 0, 0, 1, FrameKind::End as u8]), Err(FrameError::TooLong { .. })));
        assert!(matches!(Header::decode([0, 0, 0, 0, 9]), Err(FrameError::UnknownKind(9))));
    }

    proptest! {
        #[test]
        fn any_five_bytes_are_a_bounded_header_or_an_error(bytes: [u8; HEADER]) {
            if let Ok(header) = Header::decode(bytes) {
                prop_assert!(header.length <= MAX_MESSAGE);
                prop_assert_eq!(header.encode(), bytes);
            }
        }
    }
}
