use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// What a stream may have under way in one direction, unread by whoever it is for.
pub(super) const WINDOW: usize = 256 << 10;
/// Most bytes of one frame: others get their turn in between.
pub(super) const MOST: usize = 32 << 10;
/// Kind, stream, length.
const HEADER: usize = 9;
/// Begins a meeting, from the host; a nonce follows. Its first byte is no kind of frame.
const HELLO: [u8; 16] = *b"SANDBAR-PIPE\x00\x01\xffh";
/// Answers it, from the guest, with the same nonce.
const WELCOME: [u8; 16] = *b"SANDBAR-PIPE\x00\x01\xffw";
const NONCE: usize = 16;

/// Chosen anew for each meeting.
pub(super) type Nonce = [u8; NONCE];

/// The nonce of no meeting: the guest says that it is in none any more.
pub(super) const LOST: Nonce = [0; NONCE];

/// What goes through the pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// A new stream; host to guest only.
    Open(u32),
    /// Bytes of a stream.
    Data(u32, Bytes),
    /// No more bytes in this direction.
    End(u32),
    /// The stream is over in both directions.
    Reset(u32),
    /// So many more bytes are welcome.
    Credit(u32, u32),
}

/// Which end of the pipe this is: it hears the other's greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Host,
    Guest,
}

impl Side {
    /// What this end says.
    pub(super) fn greeting(self, nonce: Nonce) -> Bytes {
        let mark = if self == Self::Host { HELLO } else { WELCOME };
        [mark, nonce].concat().into()
    }

    fn heard(self) -> &'static [u8; 16] {
        if self == Self::Host { &WELCOME } else { &HELLO }
    }
}

/// What was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// The other end begins a meeting.
    Greeting(Nonce),
    Frame(Frame),
}

impl Frame {
    pub(super) fn encode(&self, into: &mut BytesMut) {
        let (kind, stream, length) = match self {
            Self::Open(stream) => (1, stream, 0),
            Self::Data(stream, bytes) => (2, stream, u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
            Self::End(stream) => (3, stream, 0),
            Self::Reset(stream) => (4, stream, 0),
            Self::Credit(stream, bytes) => (5, stream, *bytes),
        };
        into.put_u8(kind);
        into.put_u32(*stream);
        into.put_u32(length);
        if let Self::Data(_, bytes) = self {
            into.put_slice(bytes);
        }
    }
}

/// Frames that change nothing, longer than any other: whoever waits for the rest of one has it then, and more that is none.
pub(super) fn padding() -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER + MOST + HEADER);
    while bytes.len() < HEADER + MOST {
        Frame::Credit(u32::MAX, 0).encode(&mut bytes);
    }
    bytes.freeze()
}

/// Takes what was read apart.
#[derive(Debug)]
pub(super) struct Parser {
    side: Side,
    buffer: BytesMut,
    /// Whether frames are understood; otherwise everything is thrown away up to the next greeting.
    met: bool,
}

impl Parser {
    pub(super) fn new(side: Side) -> Self {
        Self { side, buffer: BytesMut::new(), met: false }
    }

    /// Forgets everything up to the next greeting.
    pub(super) fn lose(&mut self) {
        self.met = false;
        self.buffer.clear();
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next thing that is there as a whole.
    ///
    /// # Errors
    /// When what follows is no frame; the parser then looks for the next greeting.
    pub(super) fn next(&mut self) -> io::Result<Option<Heard>> {
        let mark = self.side.heard();
        if !self.met {
            match self.buffer.windows(mark.len()).position(|window| window == mark) {
                Some(at) => self.buffer.advance(at),
                None => {
                    // The begin of one may be the end of what is there.
                    let surplus = self.buffer.len().saturating_sub(mark.len() - 1);
                    self.buffer.advance(surplus);
                    return Ok(None);
                }
            }
        }
        match self.buffer.first() {
            None => return Ok(None),
            Some(first) if *first == mark[0] => {
                let compared = mark.len().min(self.buffer.len());
                if self.buffer[..compared] != mark[..compared] {
                    return Err(self.lost("something like a greeting"));
                }
                if self.buffer.len() < mark.len() + NONCE {
                    return Ok(None);
                }
                self.buffer.advance(mark.len());
                let mut nonce = [0; NONCE];
                self.buffer.copy_to_slice(&mut nonce);
                self.met = true;
                return Ok(Some(Heard::Greeting(nonce)));
            }
            Some(_) if self.buffer.len() < HEADER => return Ok(None),
            Some(_) => {}
        }
        let mut header = &self.buffer[..HEADER];
        let (kind, stream, length) = (header.get_u8(), header.get_u32(), header.get_u32());
        let frame = match (kind, length) {
            (1, 0) => Frame::Open(stream),
            (2, length) if (1..=MOST).contains(&(length as usize)) => {
                if self.buffer.len() < HEADER + length as usize {
                    return Ok(None);
                }
                self.buffer.advance(HEADER);
                return Ok(Some(Heard::Frame(Frame::Data(stream, self.buffer.split_to(length as usize).freeze()))));
            }
            (3, 0) => Frame::End(stream),
            (4, 0) => Frame::Reset(stream),
            (5, bytes) if bytes as usize <= WINDOW => Frame::Credit(stream, bytes),
            _ => return Err(self.lost("what is no frame")),
        };
        self.buffer.advance(HEADER);
        Ok(Some(Heard::Frame(frame)))
    }

    fn lost(&mut self, what: &str) -> io::Error {
        self.met = false;
        // So that the same bytes are not looked at once more.
        self.buffer.advance(1);
        io::Error::new(io::ErrorKind::InvalidData, format!("{what} came through the pipe"))
    }
}
