//! SHA-256 digests as OCI writes them, and streams that compute one on the way.

use std::{
    fmt, io,
    io::{Read, Write},
    str::FromStr,
};

use sandbar_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// `sha256:` and 64 lower-case hexadecimal digits: the name of a piece of content.
///
/// Other algorithms of the OCI specification are refused: nobody serves them, and a store with one kind of name has no
/// content twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema), schema(value_type = String))]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 64 digits without the algorithm: the name of files and folders in the store.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The digest whose [`hex`](Self::hex) this is.
    pub(super) fn from_hex(hex: &str) -> Option<Self> {
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }

    /// Refuses bytes that have another digest.
    pub(super) fn verify(&self, operation: &'static str, what: &str, bytes: &[u8]) -> Result<()> {
        self.expect(operation, what, Self::of(bytes))
    }

    /// Refuses content whose digest turned out to be `actual`.
    pub(super) fn expect(&self, operation: &'static str, what: &str, actual: Self) -> Result<()> {
        if *self == actual {
            return Ok(());
        }
        let message = format!("the {what} is not what its digest says");
        Err(Error::new(ErrorKind::Corrupt, operation, message).with("expected", self).with("actual", actual))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |message| Error::new(ErrorKind::InvalidInput, "digest", message).with("value", format!("{text:?}"));
        match text.split_once(':') {
            Some(("sha256", hex)) => Self::from_hex(hex).ok_or_else(|| bad("expected 64 lower-case hexadecimal digits")),
            Some(("sha384" | "sha512" | "blake3", _)) => Err(bad("only sha256 digests are supported")),
            _ => Err(bad("expected sha256:HEX")),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// A digest in the making.
#[derive(Clone, Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(super) fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// A writer that computes the digest of what passes, and counts it.
pub(super) struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    written: u64,
}

impl<W: Write> HashingWriter<W> {
    pub(super) fn new(inner: W) -> Self {
        Self { inner, hasher: Hasher::default(), written: 0 }
    }

    /// What it wrote to, the digest and the number of bytes.
    pub(super) fn finish(self) -> (W, Digest, u64) {
        (self.inner, self.hasher.finish(), self.written)
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// A reader that computes the digest of what passes.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Hashing<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: Hasher::default() }
    }

    /// Reads what is left and tells the digest of all of it: an archive's reader stops before the padding at its end,
    /// which belongs to the digest.
    pub(super) fn finish(mut self) -> io::Result<Digest> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(self.hasher.finish())
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_what_it_writes() {
        let digest = Digest::of(b"");
        assert_eq!(digest.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn what_is_no_sha256_digest_is_refused() {
        for text in ["", "sha256:", "sha256:ABCD", "e3b0", "sha512:00", &format!("sha256:{}", "g".repeat(64)), "sha256:../../etc"] {
            assert_eq!(text.parse::<Digest>().unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }

    #[test]
    fn a_hashing_reader_counts_what_was_left_unread() {
        let mut reader = Hashing::new(&b"abc"[..]);
        reader.read_exact(&mut [0; 1]).unwrap();
        assert_eq!(reader.finish().unwrap(), Digest::of(b"abc"));
    }
}
