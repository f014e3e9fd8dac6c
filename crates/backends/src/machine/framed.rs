//! A stream in frames, for wires that cannot end one direction alone.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use sandbar_core::Connection;
use sandbar_protocol::{FrameKind, HEADER, Header, encode_frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of one frame that is written.
const MOST: usize = 64 << 10;
const PIECE: usize = 16 << 10;

/// A connection whose bytes, and the end of each direction, are frames.
pub(super) struct Framed {
    stream: Connection,
    incoming: BytesMut,
    /// What is left of the frame that is being read.
    left: usize,
    /// Whether the other side has said its last.
    has_ended: bool,
    outgoing: BytesMut,
    /// Whether this side has.
    is_shut: bool,
}

impl Framed {
    /// Goes on with a connection of which some bytes were read already.
    pub(super) fn new(stream: Connection, ahead: Bytes) -> Self {
        Self { stream, incoming: ahead.into(), left: 0, has_ended: false, outgoing: BytesMut::new(), is_shut: false }
    }

    fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &self.outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.outgoing.advance(length),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes the next header, if it is there.
    fn take_header(&mut self) -> io::Result<bool> {
        let Some(header) = self.incoming.first_chunk::<HEADER>() else { return Ok(false) };
        let header = Header::decode(*header)?;
        self.incoming.advance(HEADER);
        match header.kind {
            FrameKind::Bytes => self.left = header.length,
            FrameKind::End => self.has_ended = true,
            FrameKind::Message | FrameKind::Stdout | FrameKind::Stderr => return Err(io::ErrorKind::InvalidData.into()),
        }
        Ok(true)
    }
}

impl AsyncRead for Framed {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Whoever reads may wait for the answer to what is not sent yet.
        if let Poll::Ready(Err(error)) = self.poll_drain(context) {
            return Poll::Ready(Err(error));
        }
        loop {
            if self.left > 0 && !self.incoming.is_empty() {
                let length = self.left.min(self.incoming.len()).min(buffer.remaining());
                buffer.put_slice(&self.incoming[..length]);
                self.incoming.advance(length);
                self.left -= length;
                return Poll::Ready(Ok(()));
            }
            if self.has_ended {
                return Poll::Ready(Ok(()));
            }
            if self.left == 0 && self.take_header()? {
                continue;
            }
            let mut piece = [0; PIECE];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(context, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            self.incoming.extend_from_slice(piece.filled());
        }
    }
}

impl AsyncWrite for Framed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_drain(context))?;
        if self.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let data = &data[..data.len().min(MOST)];
        encode_frame(&mut self.outgoing, FrameKind::Bytes, data)?;
        match self.poll_drain(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(data.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            encode_frame(&mut self.outgoing, FrameKind::End, &[])?;
            self.is_shut = true;
        }
        self.poll_flush(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn one_direction_ends_and_the_other_goes_on() {
        let (near, far) = tokio::io::duplex(100);
        let (mut near, mut far) = (Framed::new(Box::new(near), Bytes::new()), Framed::new(Box::new(far), Bytes::new()));
        let sent: Vec<u8> = (0..200_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let expected = sent.clone();
        let client = async {
            near.write_all(&sent).await.unwrap();
            near.shutdown().await.unwrap();
            let mut answer = Vec::new();
            near.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let server = async {
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            far.write_all(&heard).await.unwrap();
            far.shutdown().await.unwrap();
        };
        let (answer, ()) = tokio::join!(client, server);
        assert!(answer == expected);
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_is_no_end() {
        let (near, far) = tokio::io::duplex(100);
        drop(far);
        let mut near = Framed::new(Box::new(near), Bytes::new());
        assert_eq!(near.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
