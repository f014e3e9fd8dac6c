use std::{io, time::Duration};

use sandbar_core::{Connection, Error, ErrorKind, Result};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

use super::{
    address::{Address, Scheme},
    context::Credentials,
    problem::{OPERATION, lost},
    ssh::Login,
    tls,
};

/// What reaching a host may take.
const REACH: Duration = Duration::from_secs(10);
/// Silence after which the other side's kernel is asked whether it is still there, and how often it is asked.
const SILENCE: Duration = Duration::from_secs(15);
/// Unanswered questions after which it is taken for gone.
const QUESTIONS: u32 = 3;
/// How long what was sent may stay unacknowledged, milliseconds.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: u32 = 60_000;

/// A byte stream to another sandbar.
pub(super) async fn dial(address: &Address, credentials: &Credentials, login: &Login) -> Result<Connection> {
    let late = |_| Err(lost("the host does not answer").with("host", &address.host));
    match address.scheme {
        Scheme::Ssh => login.dial(address).await,
        Scheme::Http => {
            let plain = async { tcp(address).await.map(|stream| Box::new(stream) as Connection) };
            timeout(REACH, plain).await.unwrap_or_else(late)
        }
        Scheme::Https => {
            let secured = async { tls::connect(tcp(address).await?, &address.host, credentials.authority.as_deref()).await };
            timeout(REACH, secured).await.unwrap_or_else(late)
        }
    }
}

async fn tcp(address: &Address) -> Result<TcpStream> {
    let failed = |error: io::Error| {
        let message = match error.kind() {
            io::ErrorKind::ConnectionRefused => "nothing listens there",
            _ => "the host cannot be reached",
        };
        lost(message).with("host", &address.host).with("port", address.tcp_port()).with_source(error)
    };
    let known = lookup_host((address.host.as_str(), address.tcp_port())).await.map_err(|error| {
        Error::new(ErrorKind::Unavailable, OPERATION, "the host's name has no address").with("host", &address.host).with_source(error)
    })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for place in known {
        match TcpStream::connect(place).await {
            Ok(stream) => {
                watch_over(&stream).map_err(failed)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// A host that vanished is noticed within a minute.
fn watch_over(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, SILENCE)?;
    sockopt::set_tcp_keepcnt(stream, QUESTIONS)?;
    #[cfg(target_os = "linux")]
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED)?;
    Ok(())
}
