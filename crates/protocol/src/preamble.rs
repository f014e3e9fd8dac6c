use crate::FrameError;

/// Bytes of a preamble.
pub const PREAMBLE: usize = 8;

/// The version that this build speaks. A greater minor only adds; another major cannot be talked to.
pub const VERSION: Preamble = Preamble { major: 1, minor: 0 };

const MAGIC: [u8; 4] = *b"SBAR";

/// The first eight bytes of each direction: `SBAR`, then major and minor as big-endian `u16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// Changes when old and new cannot understand one another.
    pub major: u16,
    /// Changes when something was added.
    pub minor: u16,
}

impl Preamble {
    /// As bytes.
    pub fn encode(self) -> [u8; PREAMBLE] {
        let mut bytes = [0; PREAMBLE];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.major.to_be_bytes());
        bytes[6..].copy_from_slice(&self.minor.to_be_bytes());
        bytes
    }

    /// From bytes.
    ///
    /// # Errors
    /// `BadMagic` when the other side is no sandbar; `Version` when its major is not ours.
    pub fn decode(bytes: [u8; PREAMBLE]) -> Result<Self, FrameError> {
        let [m0, m1, m2, m3, a, b, c, d] = bytes;
        if [m0, m1, m2, m3] != MAGIC {
            return Err(FrameError::BadMagic);
        }
        let preamble = Self { major: u16::from_be_bytes([a, b]), minor: u16::from_be_bytes([c, d]) };
        if preamble.major == VERSION.major { Ok(preamble) } else { Err(FrameError::Version(preamble)) }
    }
}
