use std::{io, net::IpAddr, time::Duration};

use sandbar_core::{Connection, Error, ErrorKind, Result};
use sandbar_relay::Patient;
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
/// How long a host that has vanished is taken for one that is there.
const PATIENCE: Duration = Duration::from_secs(60);

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

async fn tcp(address: &Address) -> Result<Patient> {
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
    for place in known.filter(|place| is_fit(address.scheme, place.ip())) {
        match TcpStream::connect(place).await {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(failed)?;
                return Ok(Patient::new(stream, PATIENCE));
            }
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// Whether keys and secrets may go there: in the clear to this machine alone, whatever `localhost` means to its resolver.
fn is_fit(scheme: Scheme, place: IpAddr) -> bool {
    scheme != Scheme::Http || place.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_the_clear_stays_on_this_machine() {
        let fit = |scheme, place: &str| is_fit(scheme, place.parse().unwrap());
        for place in ["127.0.0.1", "127.8.9.10", "::1"] {
            assert!(fit(Scheme::Http, place), "{place}");
        }
        for place in ["192.0.2.1", "10.0.0.1", "0.0.0.0", "::", "::ffff:192.0.2.1", "fe80::1"] {
            assert!(!fit(Scheme::Http, place) && fit(Scheme::Https, place), "{place}");
        }
    }
}
