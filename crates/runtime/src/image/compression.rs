//! Layers and archives come plain, gzipped or as zstd; their first bytes say which.

use std::io::{self, BufRead, BufReader, Read};

use sandbar_core::{Error, ErrorKind};

const BUFFER: usize = 128 * 1024;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the first bytes. Media types and file names are claims; these bytes are what will be decoded.
    ///
    /// # Errors
    /// The name of the format, when it is one that nothing here can decode.
    fn of(start: &[u8]) -> Result<Self, &'static str> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Self::Zstd),
            // A skippable frame, which some compressors put first (`seekable`, `pzstd`).
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [b'B', b'Z', b'h', ..] => Err("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err("lz4"),
            [b'P', b'K', 3, 4, ..] => Err("zip"),
            _ => Ok(Self::None),
        }
    }
}

/// The decompressed stream, whatever it was compressed with; at most `limit` bytes of it, after which reading fails.
///
/// Damage is told as `InvalidData`; a format that is not supported as `Unsupported`; more than `limit` bytes as
/// `FileTooLarge`.
pub(super) fn decompress<'a>(inner: impl Read + 'a, limit: u64) -> io::Result<Box<dyn Read + 'a>> {
    let mut inner = BufReader::with_capacity(BUFFER, inner);
    let mut start = Vec::new();
    // One `fill_buf` may give less than the magic numbers need, when a pipe is behind it.
    (&mut inner).take(6).read_to_end(&mut start)?;
    let format = Compression::of(&start);
    let inner = BufReader::with_capacity(BUFFER, io::Cursor::new(start).chain(inner));
    let reader: Box<dyn Read + 'a> = match format {
        Ok(Compression::None) => Box::new(inner),
        Ok(Compression::Gzip) => Box::new(Damaged(flate2::bufread::MultiGzDecoder::new(inner))),
        Ok(Compression::Zstd) => Box::new(Damaged(zstd_decoder(inner)?)),
        Err(format) => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, format!("{format} is not supported: use tar, tar.gz or tar.zst")));
        }
    };
    Ok(Box::new(Limited { inner: reader, left: limit }))
}

/// An error of opening or reading such a stream, as one of ours.
pub(super) fn explain(operation: &'static str, message: impl Into<String>, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::Unsupported {
        return Error::new(ErrorKind::Unsupported, operation, message).with_source(error);
    }
    Error::io(operation, message, error)
}

fn zstd_decoder<'a>(inner: impl BufRead + 'a) -> io::Result<impl Read + 'a> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(inner)?;
    // 128 MiB, what `zstd` itself accepts without being asked twice: a stranger's stream names its own window size.
    decoder.window_log_max(27)?;
    Ok(decoder)
}

/// Tells the decoders' many ways to say "damaged" as one.
struct Damaged<R>(R);

impl<R: Read> Read for Damaged<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            // The source's own trouble, not the decoder's.
            _ if error.raw_os_error().is_some() => error,
            io::ErrorKind::Interrupted => error,
            _ => io::Error::new(io::ErrorKind::InvalidData, error),
        })
    }
}

struct Limited<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more unpacked data than allowed")),
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn read(data: &[u8], limit: u64) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(data, limit)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn each_format_is_known_by_its_first_bytes() {
        let data = b"some data".repeat(1000);
        assert_eq!(read(&data, u64::MAX).unwrap(), data);
        assert_eq!(read(&gzip(&data), u64::MAX).unwrap(), data);
        assert_eq!(read(&zstd::encode_all(&data[..], 1).unwrap(), u64::MAX).unwrap(), data);
        assert_eq!(read(b"", 0).unwrap(), b"");
        assert_eq!(read(b"BZh91AY", 10).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn concatenated_gzip_members_are_one_stream() {
        let both = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(&both, u64::MAX).unwrap(), b"one two");
    }

    #[test]
    fn a_damaged_or_short_stream_is_invalid_data() {
        let mut data = gzip(&b"some data".repeat(1000));
        data.truncate(data.len() - 9);
        assert_eq!(read(&data, u64::MAX).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut data = zstd::encode_all(&b"some data".repeat(1000)[..], 1).unwrap();
        let last = data.len() - 1;
        data[last] ^= 1;
        data[12] ^= 0xff;
        assert_eq!(read(&data, u64::MAX).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn more_than_the_limit_is_refused() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert_eq!(read(&bomb, 1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(read(&bomb, (1 << 20) - 1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
