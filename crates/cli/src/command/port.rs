use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;
use sandbar_runtime::Runtime;

use crate::{args, error::Outcome, output};

/// Let this machine connect to a port of a sandbox
///
/// Listens on 127.0.0.1, on a free port unless one is given, and prints HOST:PORT. It goes on until `unexpose`, or until the sandbox ends.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  curl http://$(sandbar expose web 8080)/
  sandbar expose web 5432 --listen 127.0.0.1:5432")]
pub(crate) struct Expose {
    /// Where to listen: ADDRESS:PORT, or a port of 127.0.0.1; port 0 is a free one
    #[arg(long, value_name = "ADDR:PORT", value_parser = args::listen, default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))]
    listen: SocketAddr,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The sandbox
    id: String,
    /// The port inside
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

impl Expose {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let exposed = runtime.sandbox(&self.id).await?.expose_port(self.port, self.listen).await?;
        if self.json { output::json(&exposed) } else { output::line(&exposed.listen.to_string()) }
    }
}

/// Stop what `expose` began
#[derive(Debug, Args)]
pub(crate) struct Unexpose {
    /// The sandbox
    id: String,
    /// The port inside
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

impl Unexpose {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        runtime.sandbox(&self.id).await?.unexpose_port(self.port).await?;
        Ok(())
    }
}
