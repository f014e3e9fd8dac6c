#![expect(unsafe_code, reason = "TCP_INFO has no safe call")]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::AsRawFd,
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

/// How many unanswered questions of TCP's make a client one that may be gone.
const UNANSWERED: u8 = 3;

/// A client's connection, which is given up when the client has vanished: its host is gone, or the way to it.
///
/// While nothing is on its way to a client, TCP's keep-alive asks it. While something is, TCP sends it again and again, or asks again and again whether the client has
/// room for it, for some fifteen minutes; and what nobody acknowledges for the time given here is given up earlier. `TCP_USER_TIMEOUT` would do that by one call, but it also
/// ends a client that answers each time that it still has no room (`tcp_probe_timer` in Linux's net/ipv4/tcp_timer.c): one that is there, and does not read.
pub(crate) struct Patient {
    stream: TcpStream,
    patience: Duration,
    look: Interval,
}

impl Patient {
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> Self {
        if let Err(error) = ask(&stream, patience) {
            tracing::debug!(%error, "a client that vanishes is noticed late");
        }
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

/// Has TCP ask a silent client whether it is there: after half of the time, and then four times in the other half.
fn ask(stream: &TcpStream, patience: Duration) -> rustix::io::Result<()> {
    let second = Duration::from_secs(1);
    set_tcp_keepidle(stream, (patience / 2).max(second))?;
    set_tcp_keepcnt(stream, 4)?;
    set_tcp_keepintvl(stream, (patience / 8).max(second))?;
    set_socket_keepalive(stream, true)
}

/// Whether TCP has asked or sent again, and has heard nothing for so long.
fn is_gone(stream: &TcpStream, patience: Duration) -> io::Result<bool> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is a socket that lives, and no more than `length` bytes are written, into what has that size.
    let got = unsafe { libc::getsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length) };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of it are numbers, and it was zero before.
    let info = unsafe { info.assume_init() };
    let is_asked_in_vain = info.tcpi_retransmits >= UNANSWERED || info.tcpi_probes >= UNANSWERED;
    Ok(is_asked_in_vain && Duration::from_millis(info.tcpi_last_ack_recv.into()) >= patience)
}
