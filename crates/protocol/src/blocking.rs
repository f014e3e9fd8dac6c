use std::io::{Read, Write};

use bytes::Bytes;

use crate::{Frame, FrameError, FrameKind, HEADER, Header};

/// Reads one frame from a blocking stream; `None` when the stream ended between frames.
///
/// # Errors
/// As [`Header::decode`]; `Cut` when the stream ends within a frame.
pub fn read_frame(stream: &mut impl Read) -> Result<Option<Frame>, FrameError> {
    let mut header = [0; HEADER];
    let first = loop {
        match stream.read(&mut header) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut header[first..])?;
    let header = Header::decode(header)?;
    let mut payload = vec![0; header.length];
    stream.read_exact(&mut payload)?;
    Ok(Some(Frame { kind: header.kind, payload: Bytes::from(payload) }))
}

/// Writes one frame to a blocking stream.
///
/// # Errors
/// `TooLong`, or the stream's error.
pub fn write_frame(stream: &mut impl Write, kind: FrameKind, payload: &[u8]) -> Result<(), FrameError> {
    let header = Header { kind, length: payload.len() }.encode();
    Header::decode(header)?;
    stream.write_all(&header)?;
    stream.write_all(payload)?;
    Ok(())
}
