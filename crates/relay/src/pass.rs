use std::io;

use bytes::{Buf, Bytes};
use rustix::{io::Errno, net::SendFlags};
use tokio::io::Interest;

use crate::{
    pipe::{self, Pipe},
    socket::{Socket, is_passing, perform},
};

/// Who has a say about how much is passed on.
pub trait Toll: Sync {
    /// Most bytes that are to be passed on at once, if there is such a bound.
    fn piece(&self) -> Option<usize> {
        None
    }

    /// Waits until so many bytes may be passed on, which have been read already.
    ///
    /// # Errors
    /// When they may not: then it ends.
    fn pay(&self, bytes: usize) -> impl Future<Output = io::Result<()>> + Send;

    /// Hears of bytes that were passed on.
    fn passed(&self, _bytes: usize) {}
}

/// Nobody: everything passes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Free;

impl Toll for Free {
    async fn pay(&self, _: usize) -> io::Result<()> {
        Ok(())
    }
}

/// Passes bytes one way, and then the end. They are moved by page and not copied, if the kernel can.
///
/// # Errors
/// Of the sockets, or of the toll.
pub async fn pass(from: &impl Socket, to: &impl Socket, toll: &impl Toll) -> io::Result<()> {
    pass_bytes(from, to, toll).await?;
    end(to);
    Ok(())
}

/// As [`pass`], without the end.
///
/// # Errors
/// As [`pass`].
pub async fn pass_bytes(from: &impl Socket, to: &impl Socket, toll: &impl Toll) -> io::Result<()> {
    if splice(from, to, toll).await? { Ok(()) } else { copy(from, to, toll).await }
}

/// Passes on an end.
pub fn end(to: &impl Socket) {
    // A connection that is gone as a whole has no half to end.
    let _ = rustix::net::shutdown(to, rustix::net::Shutdown::Write);
}

/// Whether it came to the end: not so where there are no pipes, or what comes cannot be moved into one. Then nothing has been taken that was not passed on.
async fn splice(from: &impl Socket, to: &impl Socket, toll: &impl Toll) -> io::Result<bool> {
    let mut can_leave = true;
    loop {
        // An idle stream costs nothing.
        from.ready(Interest::READABLE).await?;
        let Ok(pipe) = Pipe::take() else { return Ok(false) };
        let most = toll.piece().unwrap_or(4 * pipe::SIZE);
        match from.attempt(Interest::READABLE, || pipe.fill(from, most)) {
            Ok(0) => {
                pipe.give_back();
                return Ok(true);
            }
            // One that is not emptied, since this fails or is dropped, is closed.
            Ok(length) => {
                toll.pay(length).await?;
                empty(&pipe, to, length, &mut can_leave).await?;
                pipe.give_back();
                toll.passed(length);
            }
            Err(error) => {
                pipe.give_back();
                if cannot_move(&error) {
                    return Ok(false);
                }
                if !is_passing(&error) {
                    return Err(error);
                }
            }
        }
    }
}

/// Whether the kernel cannot move pages between these two.
fn cannot_move(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// Passes on what is in a pipe. A socket that takes no pages gets copies.
async fn empty(pipe: &Pipe, to: &impl Socket, mut waiting: usize, can_leave: &mut bool) -> io::Result<()> {
    while waiting > 0 && *can_leave {
        match perform(to, Interest::WRITABLE, || pipe.drain(to, waiting)).await {
            Err(error) if cannot_move(&error) => *can_leave = false,
            length => waiting = waiting.saturating_sub(length?),
        }
    }
    while waiting > 0 {
        let mut buffer = vec![0; waiting.min(pipe::SIZE)];
        let length = pipe.read(&mut buffer)?;
        buffer.truncate(length);
        waiting = waiting.saturating_sub(length);
        write(to, buffer.into()).await?;
    }
    Ok(())
}

async fn copy(from: &impl Socket, to: &impl Socket, toll: &impl Toll) -> io::Result<()> {
    loop {
        // An idle stream costs no buffer, and how much may pass at once is asked when something comes.
        from.ready(Interest::READABLE).await?;
        let mut buffer = vec![0; toll.piece().unwrap_or(pipe::SIZE)];
        match from.attempt(Interest::READABLE, || Ok(rustix::io::read(from, &mut buffer)?)) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                buffer.truncate(length);
                toll.pay(length).await?;
                write(to, buffer.into()).await?;
                toll.passed(length);
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Without a signal where the other side is gone, in programs that have not turned it off.
#[cfg(target_os = "linux")]
const QUIETLY: SendFlags = SendFlags::NOSIGNAL;
/// Rust's programs have turned off the signal of a pipe that is gone.
#[cfg(not(target_os = "linux"))]
const QUIETLY: SendFlags = SendFlags::empty();

/// Writes all of it.
///
/// # Errors
/// Of the socket.
pub async fn write(to: &impl Socket, mut bytes: Bytes) -> io::Result<()> {
    while !bytes.is_empty() {
        let length = perform(to, Interest::WRITABLE, || Ok(rustix::net::send(to, &bytes, QUIETLY)?)).await?;
        bytes.advance(length);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream, UnixStream},
    };

    use super::*;

    struct Bounded {
        left: AtomicUsize,
        passed: AtomicUsize,
    }

    impl Toll for Bounded {
        fn piece(&self) -> Option<usize> {
            Some(1000)
        }

        async fn pay(&self, bytes: usize) -> io::Result<()> {
            assert!(bytes <= 1000, "{bytes} at once");
            let spend = |left: usize| left.checked_sub(bytes);
            let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend);
            spent.map(drop).map_err(|_| io::ErrorKind::QuotaExceeded.into())
        }

        fn passed(&self, bytes: usize) {
            self.passed.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    async fn tcp() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (one, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn all_bytes_and_then_the_end_are_passed_on_both_kinds_of_sockets() {
        let (mut source, from) = tcp().await;
        let (middle, between) = UnixStream::pair().unwrap();
        let (to, mut sink) = tcp().await;
        let bytes: Vec<u8> = (0..251).cycle().take(3_000_000).collect();
        let send = async {
            source.write_all(&bytes).await.unwrap();
            source.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let (there, on, (), read) =
            tokio::join!(pass(&from, &middle, &Free), pass(&between, &to, &Free), send, sink.read_to_end(&mut heard));
        there.unwrap();
        on.unwrap();
        read.unwrap();
        assert!(heard == bytes, "{} of {} bytes", heard.len(), bytes.len());
    }

    #[tokio::test]
    async fn what_is_not_paid_for_is_not_passed_on() {
        let (mut source, from) = tcp().await;
        let (to, mut sink) = UnixStream::pair().unwrap();
        source.write_all(&[7; 5000]).await.unwrap();
        let toll = Bounded { left: AtomicUsize::new(3500), passed: AtomicUsize::new(0) };
        let ended = pass(&from, &to, &toll).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        drop(to);
        let mut heard = Vec::new();
        sink.read_to_end(&mut heard).await.unwrap();
        let passed = toll.passed.load(Ordering::Relaxed);
        assert!(heard.len() == passed && (2500..=3500).contains(&passed), "{} of {passed}", heard.len());
    }
}
