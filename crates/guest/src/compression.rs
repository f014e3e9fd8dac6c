use std::io::{self, Read};

use sandbar_core::{Context as _, Error, ErrorKind, Result};

/// The most that a kernel may be once it is decompressed. A distribution's is below 100 MiB.
pub(crate) const MOST_KERNEL: u64 = 512 << 20;
/// The most that a module may be. The largest of a distribution's (graphics) are below 10 MiB.
pub(crate) const MOST_MODULE: u64 = 64 << 20;

const OPERATION: &str = "decompress";

/// A format, known by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Plain,
    Gzip,
    Xz,
    /// The frame of the kernel's build: no end mark, and its length behind it.
    LegacyLz4,
    Lz4,
    Zstd,
    Bzip2,
    Lzo,
    Lzma,
}

impl Format {
    /// The format of what begins like this.
    pub(crate) fn of(begin: &[u8]) -> Self {
        const KNOWN: [(&[u8], Format); 8] = [
            (&[0x1f, 0x8b], Format::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Format::Xz),
            (&[0x02, 0x21, 0x4c, 0x18], Format::LegacyLz4),
            (&[0x04, 0x22, 0x4d, 0x18], Format::Lz4),
            (&[0x28, 0xb5, 0x2f, 0xfd], Format::Zstd),
            (b"BZh", Format::Bzip2),
            (&[0x89, b'L', b'Z', b'O'], Format::Lzo),
            (&[0x5d, 0, 0], Format::Lzma),
        ];
        KNOWN.iter().find(|(magic, _)| begin.starts_with(magic)).map_or(Self::Plain, |(_, format)| *format)
    }
}

/// Decompresses all of `bytes`, whatever format they are in.
///
/// # Errors
/// `Corrupt` for what its format does not allow; `ResourceExhausted` for more than `most` bytes; `Unsupported` for formats that no
/// distribution uses for this any more.
pub(crate) fn decompress(bytes: &[u8], most: u64) -> Result<Vec<u8>> {
    let reader: Box<dyn Read + '_> = match Format::of(bytes) {
        Format::Plain => Box::new(bytes),
        Format::LegacyLz4 => return legacy_lz4(bytes, most),
        format => stream(format, bytes)?,
    };
    let mut plain = Vec::new();
    // One byte more than is allowed tells that there is more.
    reader.take(most + 1).read_to_end(&mut plain).map_err(damaged)?;
    if plain.len() as u64 > most { Err(too_large(most)) } else { Ok(plain) }
}

/// A reader of what `input` holds, compressed in a known format.
///
/// # Errors
/// `Unsupported`, or `Corrupt`.
pub(crate) fn stream<'input>(format: Format, input: impl Read + 'input) -> Result<Box<dyn Read + 'input>> {
    Ok(match format {
        Format::Plain => Box::new(input),
        Format::Gzip => Box::new(flate2::read::GzDecoder::new(input)),
        Format::Xz => Box::new(lzma_rust2::XzReader::new(input, false)),
        Format::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(input)),
        Format::Zstd => Box::new(zstd::Decoder::new(input).context(OPERATION, || "cannot begin a zstd stream".to_owned())?.single_frame()),
        format @ (Format::LegacyLz4 | Format::Bzip2 | Format::Lzo | Format::Lzma) => {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "this compression is not supported here")
                .with("format", format!("{format:?}").to_lowercase())
                .with_hint("gzip, xz, lz4 and zstd are; a kernel's own scripts/extract-vmlinux gives a plain one"));
        }
    })
}

/// Blocks of at most 8 MiB, each with its compressed length before it. What follows the last is not told: the kernel's build appends
/// the length of the whole, which is no block.
fn legacy_lz4(bytes: &[u8], most: u64) -> Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut plain = Vec::new();
    let mut block = vec![0; BLOCK];
    let mut rest = &bytes[4..];
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 || after.len() < length {
            break;
        }
        let (compressed, after) = after.split_at(length);
        let read = lz4_flex::block::decompress_into(compressed, &mut block).map_err(|error| damaged(io::Error::other(error)))?;
        plain.extend_from_slice(&block[..read]);
        if plain.len() as u64 > most {
            return Err(too_large(most));
        }
        rest = after;
    }
    Ok(plain)
}

fn damaged(error: io::Error) -> Error {
    Error::new(ErrorKind::Corrupt, OPERATION, "the compressed data is damaged").with_source(error)
}

fn too_large(most: u64) -> Error {
    Error::new(ErrorKind::ResourceExhausted, OPERATION, "the decompressed data is larger than anything of its kind").with("limit", most)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn what_is_larger_than_allowed_is_refused_before_it_is_held() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert_eq!(decompress(&bomb, 1 << 20).unwrap().len(), 1 << 20);
        assert_eq!(decompress(&bomb, (1 << 20) - 1).unwrap_err().kind(), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn damage_is_told() {
        let mut bytes = gzip(b"a kernel, of sorts");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        assert_eq!(decompress(&bytes, 1 << 20).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(decompress(b"BZh91AY", 1 << 20).unwrap_err().kind(), ErrorKind::Unsupported);
        let lz4 = [&[0x02, 0x21, 0x4c, 0x18, 5, 0, 0, 0][..], &[0xff; 5]].concat();
        assert_eq!(decompress(&lz4, 1 << 20).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn every_format_gives_the_same() {
        let plain: Vec<u8> = (0..100_000_u32).flat_map(|number| (number / 7).to_le_bytes()).collect();
        let mut legacy = vec![0x02, 0x21, 0x4c, 0x18];
        let block = lz4_flex::block::compress(&plain);
        legacy.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        legacy.extend_from_slice(&block);
        // What the kernel's build appends.
        legacy.extend_from_slice(&u32::try_from(plain.len()).unwrap().to_le_bytes());
        let zstd = zstd::encode_all(plain.as_slice(), 1).unwrap();
        for compressed in [plain.clone(), gzip(&plain), legacy, zstd] {
            assert!(decompress(&compressed, 1 << 20).unwrap() == plain, "{:?}", Format::of(&compressed));
        }
    }
}
