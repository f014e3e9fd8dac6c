//! A stream in frames, for wires that cannot end one direction alone.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use sandbar_core::Connection;
use sandbar_protocol::{FrameKind, HEADER, Header, encode_frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Most bytes of one frame that is written.
const MOST: usize = 64 << 10;
/// What is read at once where a header is expected.
const PIECE: usize = 16 << 10;

/// A connection whose bytes, and the end of each direction, are frames. One that is cut without such an end fails to be read.
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
    tasks: Arc<Tasks>,
}

/// Who reads and who writes. Either sends what is on its way out, and the stream underneath remembers only the one who tried last.
#[derive(Default)]
struct Tasks {
    reader: Mutex<Option<Waker>>,
    writer: Mutex<Option<Waker>>,
}

impl Wake for Tasks {
    fn wake(self: Arc<Self>) {
        for task in [&self.reader, &self.writer] {
            if let Some(waker) = task.lock().unwrap_or_else(PoisonError::into_inner).take() {
                waker.wake();
            }
        }
    }
}

impl Framed {
    /// Goes on with a connection of which some bytes were read already.
    pub(super) fn new(stream: Connection, ahead: Bytes) -> Self {
        Self { stream, incoming: ahead.into(), left: 0, has_ended: false, outgoing: BytesMut::new(), is_shut: false, tasks: Arc::default() }
    }

    /// Sends what is on its way out. A writer hears that its bytes are taken before they are sent, and may never ask again: so a reader does it too.
    fn poll_drain(&mut self) -> Poll<io::Result<()>> {
        let waker = Waker::from(Arc::clone(&self.tasks));
        let mut context = Context::from_waker(&waker);
        while !self.outgoing.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(&mut context, &self.outgoing))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.outgoing.advance(length),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The same for who writes.
    fn poll_sent(&mut self, context: &Context<'_>) -> Poll<io::Result<()>> {
        if self.outgoing.is_empty() {
            return Poll::Ready(Ok(()));
        }
        remember(&self.tasks.writer, context);
        self.poll_drain()
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

    /// Reads something; the end of the connection is none of the stream's.
    fn poll_more(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        let length = buffer.filled().len();
        Poll::Ready(if length == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(length) })
    }
}

fn remember(task: &Mutex<Option<Waker>>, context: &Context<'_>) {
    *task.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.waker().clone());
}

impl AsyncRead for Framed {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.outgoing.is_empty() {
            remember(&self.tasks.reader, context);
            // Where nothing can be sent any more there may still be something to read.
            let _ = self.poll_drain();
        }
        loop {
            if self.has_ended || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            if self.left > 0 {
                let most = self.left.min(buffer.remaining());
                let length = if self.incoming.is_empty() {
                    let length = ready!(self.poll_more(context, buffer.initialize_unfilled_to(most)))?;
                    buffer.advance(length);
                    length
                } else {
                    let length = most.min(self.incoming.len());
                    buffer.put_slice(&self.incoming[..length]);
                    self.incoming.advance(length);
                    length
                };
                self.left -= length;
                return Poll::Ready(Ok(()));
            }
            if self.take_header()? {
                continue;
            }
            let mut piece = [0; PIECE];
            let length = ready!(self.poll_more(context, &mut piece))?;
            self.incoming.extend_from_slice(&piece[..length]);
        }
    }
}

impl AsyncWrite for Framed {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_sent(context))?;
        if self.is_shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let data = &data[..data.len().min(MOST)];
        if !data.is_empty() {
            encode_frame(&mut self.outgoing, FrameKind::Bytes, data)?;
        }
        match self.poll_sent(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(data.len())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_sent(context))?;
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

    /// Two ends of a wire that takes little at once.
    fn wire() -> (Framed, Framed) {
        let (near, far) = tokio::io::duplex(100);
        (Framed::new(Box::new(near), Bytes::new()), Framed::new(Box::new(far), Bytes::new()))
    }

    fn bytes(length: u32) -> Vec<u8> {
        (0..length).map(|number| number.to_le_bytes()[0]).collect()
    }

    #[tokio::test]
    async fn one_direction_ends_and_the_other_goes_on() {
        let (mut near, mut far) = wire();
        let sent = bytes(200_000);
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
        assert!(answer == sent);
    }

    #[tokio::test]
    async fn a_task_that_reads_and_one_that_writes_do_not_wait_for_each_other() {
        let (near, far) = wire();
        let (mut reader, mut writer) = tokio::io::split(near);
        let echo = tokio::spawn(async move {
            let (mut reader, mut writer) = tokio::io::split(far);
            tokio::io::copy(&mut reader, &mut writer).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let sent = bytes(300_000);
        let expected = sent.clone();
        let sender = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
            writer.shutdown().await.unwrap();
        });
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.unwrap();
        assert!(answer == expected);
        sender.await.unwrap();
        echo.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_written_arrives_without_a_flush_when_an_answer_is_read() {
        let (mut near, mut far) = wire();
        let sent = bytes(1000);
        let client = async {
            near.write_all(&sent).await.unwrap();
            near.read_u8().await.unwrap()
        };
        let server = async {
            let mut heard = vec![0; 1000];
            far.read_exact(&mut heard).await.unwrap();
            far.write_all(&[7]).await.unwrap();
            far.flush().await.unwrap();
        };
        assert_eq!(tokio::join!(client, server).0, 7);
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_is_no_end() {
        let (mut near, far) = wire();
        drop(far);
        assert_eq!(near.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn what_is_no_frame_of_a_stream_is_refused() {
        let mut ahead = BytesMut::new();
        encode_frame(&mut ahead, FrameKind::Stdout, b"x").unwrap();
        let (near, _far) = tokio::io::duplex(100);
        let mut near = Framed::new(Box::new(near), ahead.freeze());
        assert_eq!(near.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
