use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use sandbar_core::Context;
use sandbar_runtime::Runtime;
use sandbar_server::{Certificate, OwnSocket, Service, Token};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};

use crate::{args, error::Outcome, log::LogFormat, output};

/// How long a server at a socket waits for somebody: longer than an ssh that nobody uses keeps the connection over which they come.
const IDLE: Duration = Duration::from_secs(90);

/// Serve this state folder over HTTP
///
/// Prints its address when it listens; reads its certificate again at HUP. Everything under /v1 needs the token in the file `server-token` of the state folder; /docs describes it, and /openapi.json does so for programs. Ctrl-C or TERM
/// stops the server, and no sandbox.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sandbar serve &\n  curl -H \"Authorization: Bearer $(cat $SANDBAR_HOME/server-token)\" http://127.0.0.1:7700/v1/sandboxes\n  sandbar serve --listen 0.0.0.0:7700 --tls-cert box.crt --tls-key box.key"
)]
pub(crate) struct Serve {
    /// Where to listen: ADDRESS:PORT, or a port of 127.0.0.1; port 0 is a free one
    #[arg(long, value_name = "ADDR:PORT", value_parser = args::listen, default_value = "127.0.0.1:7700")]
    listen: SocketAddr,
    /// A host name by which clients call this server, beside its addresses and localhost
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,
    /// Serve one client, on standard input and output, until it is gone; it needs no token, having come this far
    #[arg(long, conflicts_with_all = ["listen", "name", "tls_cert", "client_timeout"])]
    stdio: bool,
    /// Serve whoever comes to this socket, which is made for this user alone and needs no token, until nobody has come for 90 seconds
    #[arg(long, value_name = "PATH", conflicts_with_all = ["stdio", "listen", "name", "tls_cert", "client_timeout"])]
    socket: Option<PathBuf>,
    /// Speak TLS, with this certificate and those that lead from it to an authority, in PEM; clients may call the server by its names
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// How long a client that has vanished is taken for one that is there: seconds, or 5m
    #[arg(long, value_name = "SECONDS", value_parser = args::duration, default_value = "2m")]
    client_timeout: Duration,
    /// Log to standard error, a line a request, with what SANDBAR_LOG says (info)
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl Serve {
    /// How it logs, if it was asked for a log.
    pub(super) fn log_format(&self) -> Option<LogFormat> {
        self.log_format
    }

    /// Whether there may be more than one client.
    pub(super) fn has_clients(&self) -> bool {
        !self.stdio
    }

    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        if self.stdio {
            Service::run_for(runtime.clone(), tokio::io::stdin(), tokio::io::stdout()).await;
            return Ok(());
        }
        if let Some(path) = self.socket {
            let socket = OwnSocket::bind(&path)?;
            // The login that has begun it may end.
            let _ = rustix::process::setsid();
            output::line(&path.display().to_string())?;
            Service::run_at(runtime.clone(), socket, &path, IDLE).await;
            return Ok(());
        }
        // `clap` has seen to it that there are both or none.
        let certificate = self.tls_cert.zip(self.tls_key).map(|(chain, key)| Certificate::read(&chain, &key)).transpose()?;
        let token = Token::of(&runtime.config().home)?;
        let cannot = || format!("cannot listen on {}", self.listen);
        let listener = TcpListener::bind(self.listen).await.context("serve", cannot)?;
        let address = listener.local_addr().context("serve", cannot)?;
        if certificate.is_none() && !address.ip().is_loopback() {
            output::warning(
                "the server speaks plain HTTP: what goes over a network, the token too, can be read on its way; --tls-cert and --tls-key have it speak TLS",
            );
        }
        let hear = |kind| signal(kind).context("serve", || "cannot hear signals".to_owned());
        let (mut interrupted, mut ended) = (hear(SignalKind::interrupt())?, hear(SignalKind::terminate())?);
        // Without a certificate HUP means what it means to any program.
        let mut renewal =
            certificate.clone().map(|certificate| hear(SignalKind::hangup()).map(|hung_up| (hung_up, certificate))).transpose()?;
        let stop = async move {
            loop {
                tokio::select! {
                    _ = interrupted.recv() => return,
                    _ = ended.recv() => return,
                    () = renew(&mut renewal) => {}
                }
            }
        };
        let service = Service::new(runtime.clone(), token).with_patience(self.client_timeout);
        let service = self.name.into_iter().fold(service, Service::with_name);
        let scheme = if certificate.is_some() { "https" } else { "http" };
        let service = certificate.into_iter().fold(service, Service::with_certificate);
        output::line(&format!("{scheme}://{address}"))?;
        service.run(listener, stop).await;
        Ok(())
    }
}

/// Waits for HUP, and reads the certificate again. Without one, for ever.
async fn renew(renewal: &mut Option<(Signal, Certificate)>) {
    let Some((hung_up, certificate)) = renewal else { return std::future::pending().await };
    if hung_up.recv().await.is_none() {
        return std::future::pending().await;
    }
    if let Err(error) = certificate.read_again() {
        output::warning(&format!("the certificate is still the one that it was: {}", error.chain()));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    #[test]
    fn nobody_but_this_machine_reaches_it_unless_that_was_asked_for() {
        let listen = |words: &[&str]| Line::parse_from([&["serve"], words].concat()).serve.listen;
        assert_eq!(listen(&[]), SocketAddr::from(([127, 0, 0, 1], 7700)));
        assert!(listen(&["--listen", "8080"]).ip().is_loopback());
        assert!(!listen(&["--listen", "0.0.0.0:8080"]).ip().is_loopback());
    }
}
