use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Interval, MissedTickBehavior, interval_at},
};

/// A connection that is given up when the other side has vanished: its host is gone, or the way to it.
///
/// While nothing is on its way there, TCP's keep-alive asks. While something is, TCP sends it again and again, or asks again and again whether there is room for it, for some
/// fifteen minutes; here, what nobody acknowledges for a time is given up. `TCP_USER_TIMEOUT` would do that by one call, but it also ends a connection to somebody who answers
/// each time that there is no room yet (`tcp_probe_timer` in Linux's net/ipv4/tcp_timer.c): who is there, and does not read.
#[derive(Debug)]
pub struct Patient {
    stream: TcpStream,
    patience: Duration,
    look: Interval,
}

impl Patient {
    /// Gives it up when nothing was acknowledged, nor any question answered, for so long. Belongs to the event loop of whoever calls this.
    pub fn new(stream: TcpStream, patience: Duration) -> Self {
        // Without the questions, who is silent and has vanished is not noticed; everything else is.
        let _ = ask(&stream, patience);
        let often = (patience / 8).max(Duration::from_millis(250));
        let mut look = interval_at(Instant::now() + often, often);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { stream, patience, look }
    }

    /// Looks now and then whether somebody is there, while it is waited for.
    fn look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.look.poll_tick(context).is_ready() {
            if is_gone(&self.stream, self.patience)? {
                // What nobody takes need not be kept for anybody.
                let _ = self.stream.set_zero_linger();
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    fn waiting<T>(&mut self, context: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() {
            self.look(context)?;
        }
        polled
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.waiting(context, polled)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, data);
        self.waiting(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        self.waiting(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Has TCP ask who is silent whether they are there: after half of the time, and then four times in the other half.
fn ask(stream: &TcpStream, patience: Duration) -> rustix::io::Result<()> {
    let second = Duration::from_secs(1);
    set_tcp_keepidle(stream, (patience / 2).max(second))?;
    set_tcp_keepcnt(stream, 4)?;
    set_tcp_keepintvl(stream, (patience / 8).max(second))?;
    set_socket_keepalive(stream, true)
}

/// Whether TCP has asked or sent again, and has heard nothing for so long.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "TCP_INFO has no safe call")]
fn is_gone(stream: &TcpStream, patience: Duration) -> io::Result<bool> {
    /// How many unanswered questions make somebody one who may be gone.
    const UNANSWERED: u8 = 3;
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is a socket that lives, and no more than `length` bytes are written, into what has that size.
    let got = unsafe {
        libc::getsockopt(
            std::os::fd::AsRawFd::as_raw_fd(stream),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of it are numbers, and it was zero before.
    let info = unsafe { info.assume_init() };
    let is_asked_in_vain = info.tcpi_retransmits >= UNANSWERED || info.tcpi_probes >= UNANSWERED;
    Ok(is_asked_in_vain && Duration::from_millis(info.tcpi_last_ack_recv.into()) >= patience)
}

/// Where TCP does not tell, its own time is what counts.
#[cfg(not(target_os = "linux"))]
fn is_gone(_: &TcpStream, _: Duration) -> io::Result<bool> {
    Ok(false)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn who_does_not_read_is_waited_for_and_has_everything_in_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut reader = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut writer = Patient::new(listener.accept().await.unwrap().0, Duration::from_millis(500));
        let all = vec![7; 32 << 20];
        let writing = async {
            writer.write_all(&all).await?;
            writer.shutdown().await
        };
        let mut writing = Box::pin(writing);
        // Several times as long as somebody who says nothing is waited for.
        assert!(timeout(Duration::from_secs(3), &mut writing).await.is_err());
        let mut read = Vec::new();
        let (written, arrived) = tokio::join!(writing, reader.read_to_end(&mut read));
        written.unwrap();
        arrived.unwrap();
        assert!(read == all);
    }
}
