//! Between the archive code, which blocks, and the streams of a sandbox, which do not.

use std::{
    io::{self, ErrorKind, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    sync::mpsc,
};

/// Bytes of one piece: few enough handovers for full speed, little enough memory.
const PIECE: usize = 256 << 10;
/// Pieces between the two sides.
const QUEUE: usize = 4;

/// What a blocking writer writes is what a stream gives.
pub(super) fn to_stream() -> (BlockingWriter, Stream) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (BlockingWriter { sender, buffer: BytesMut::with_capacity(PIECE) }, Stream { receiver, piece: Bytes::new() })
}

/// The blocking end of [`to_stream`].
pub(super) struct BlockingWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    buffer: BytesMut,
}

impl BlockingWriter {
    /// Ends the stream; with an error the reader gets it in place of the end, so that a part is not taken for the whole.
    pub(super) fn finish(mut self, error: Option<io::Error>) -> io::Result<()> {
        match error {
            Some(error) => self.sender.blocking_send(Err(error)).map_err(|_| closed()),
            None => self.flush(),
        }
    }
}

impl Write for BlockingWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= PIECE {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = self.buffer.split().freeze();
        self.buffer.reserve(PIECE);
        self.sender.blocking_send(Ok(piece)).map_err(|_| closed())
    }
}

/// The other side gave up, and has the reason.
fn closed() -> io::Error {
    ErrorKind::BrokenPipe.into()
}

/// The other end of [`to_stream`].
pub(super) struct Stream {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.piece.is_empty() {
            match ready!(self.receiver.poll_recv(context)) {
                Some(piece) => self.piece = piece?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.piece.len().min(buffer.remaining());
        buffer.put_slice(&self.piece.split_to(count));
        Poll::Ready(Ok(()))
    }
}

/// What a stream gives is what a blocking reader reads. The future does the carrying; it ends when either side does.
pub(super) fn from_stream(mut stream: Box<dyn AsyncRead + Send + Unpin>) -> (BlockingReader, impl Future<Output = ()> + Send) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let carry = async move {
        loop {
            let mut piece = BytesMut::with_capacity(PIECE);
            let piece = match stream.read_buf(&mut piece).await {
                Ok(0) => return,
                Ok(_) => Ok(piece.freeze()),
                Err(error) => Err(error),
            };
            let failed = piece.is_err();
            if sender.send(piece).await.is_err() || failed {
                return;
            }
        }
    };
    (BlockingReader { receiver, piece: Bytes::new() }, carry)
}

/// The blocking end of [`from_stream`].
pub(super) struct BlockingReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for BlockingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read() {
        let (mut writer, mut stream) = to_stream();
        let expected: Vec<u8> = (0..3_000_000u32).map(|number| number as u8).collect();
        let data = expected.clone();
        let write = tokio::task::spawn_blocking(move || writer.write_all(&data).and_then(|()| writer.finish(None)));
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        write.await.unwrap().unwrap();
        assert!(read == expected);
    }

    #[tokio::test]
    async fn a_failure_is_not_an_end() {
        let (mut writer, mut stream) = to_stream();
        let write = tokio::task::spawn_blocking(move || {
            writer.write_all(b"half").unwrap();
            writer.finish(Some(io::Error::other("boom")))
        });
        let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
        write.await.unwrap().unwrap();
        assert_eq!(error.to_string(), "boom");
    }

    #[tokio::test]
    async fn what_a_stream_gives_is_read() {
        let expected: Vec<u8> = (0..1_000_000u32).map(|number| number as u8).collect();
        let (mut reader, carry) = from_stream(Box::new(std::io::Cursor::new(expected.clone())));
        let read = tokio::task::spawn_blocking(move || {
            let mut data = Vec::new();
            reader.read_to_end(&mut data).map(|_| data)
        });
        carry.await;
        assert!(read.await.unwrap().unwrap() == expected);
    }
}
