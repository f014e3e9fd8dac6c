use std::time::Duration;

use clap::{Args, Subcommand};
use sandbar_core::{Error, ErrorKind, Network};
use sandbar_runtime::{NetworkEvent, NetworkRecord, Runtime};

use crate::{error::Outcome, output};

/// How often a log that is followed is read.
const LOOK: Duration = Duration::from_millis(200);
/// The same of another host, where each time is a connection.
const LOOK_ELSEWHERE: Duration = Duration::from_secs(1);

/// What a sandbox may reach, and what it tried to
#[derive(Debug, Args)]
pub(crate) struct Net {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Log(Log),
    Set(Set),
}

/// Print every decision about its names and connections
///
/// One a line: time (UTC), what happened (allowed, refused, failed, ended; secret: one was put in; leak: a placeholder went elsewhere), protocol, where to, the rule, the reason, the bytes that went out and came in, and the process as the sandbox claims.
#[derive(Debug, Args)]
struct Log {
    /// Go on with what comes, until the sandbox ends
    #[arg(short = 'f', long)]
    follow: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
    /// The sandbox
    id: String,
}

/// Change what a running sandbox may reach
///
/// Holds at once: connections that are not allowed any more are cut. It must have been made with a network (`--net`).
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandbar net set web none
  sandbar net set web allow=pypi.org:443,files.pythonhosted.org:443")]
struct Set {
    /// The sandbox
    id: String,
    /// What it may reach, as for `--net`
    network: Network,
}

impl Net {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        match self.command {
            Command::Log(log) => log.run(runtime).await,
            Command::Set(Set { id, network }) => Ok(runtime.sandbox(&id).await?.set_network(network).await?),
        }
    }
}

impl Log {
    async fn run(self, runtime: &Runtime) -> Outcome {
        let sandbox = runtime.sandbox(&self.id).await?;
        let mut log = sandbox.network_log().await?;
        let look = if log.is_elsewhere() { LOOK_ELSEWHERE } else { LOOK };
        let mut is_known = false;
        loop {
            // Before the log is read: what was written before the end is printed.
            let is_there = match sandbox.network_log().await {
                Ok(_) => true,
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                Err(error) => return Err(error.into()),
            };
            let records = match log.read().await {
                // The other host keeps none of a sandbox that is gone.
                Err(error) if is_known && self.follow && log.is_elsewhere() && error.kind() == ErrorKind::NotFound => return Ok(()),
                records => records?,
            };
            is_known = true;
            for record in records {
                output::line(&if self.json { json(&record)? } else { line(&record) })?;
            }
            if !self.follow || !is_there {
                return Ok(());
            }
            tokio::time::sleep(look).await;
        }
    }
}

fn json(record: &NetworkRecord) -> Result<String, Error> {
    serde_json::to_string(record)
        .map_err(|source| Error::new(ErrorKind::Internal, "json", "cannot write a record as JSON").with_source(source))
}

fn line(record: &NetworkRecord) -> String {
    let event = match record.event {
        NetworkEvent::Allowed => "allowed",
        NetworkEvent::Refused => "refused",
        NetworkEvent::Failed => "failed",
        NetworkEvent::Ended => "ended",
        NetworkEvent::Secret => "secret",
        NetworkEvent::Leak => "leak",
    };
    let port = record.port.map(|port| format!(":{port}")).unwrap_or_default();
    let target = match (&record.name, record.address) {
        (Some(name), Some(address)) => format!("{name}{port} ({address})"),
        (Some(name), None) => format!("{name}{port}"),
        (None, Some(address)) if address.is_ipv6() => format!("[{address}]{port}"),
        (None, Some(address)) => format!("{address}{port}"),
        (None, None) => "-".to_owned(),
    };
    let rule = record.rule.as_deref().unwrap_or("-");
    let bytes = match (record.sent, record.received) {
        (Some(sent), Some(received)) => format!("  {} out, {} in", output::bytes(sent), output::bytes(received)),
        _ => String::new(),
    };
    let process = match (&record.claimed_process, record.claimed_pid) {
        (Some(name), Some(pid)) => format!("  (claims to be {name}, {pid})"),
        _ => String::new(),
    };
    let seconds = record.time_ms / 1000;
    let (hours, minutes, seconds) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let text = format!(
        "{hours:02}:{minutes:02}:{seconds:02}  {event:7}  {}  {target}  {rule}  {}{bytes}{process}",
        record.protocol, record.reason
    );
    output::escape(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_was_decided_and_why_and_cannot_drive_the_terminal() {
        let record = NetworkRecord {
            time_ms: 3_661_000,
            event: NetworkEvent::Ended,
            protocol: "tcp".to_owned(),
            name: Some("a.com".to_owned()),
            address: Some([1, 2, 3, 4].into()),
            port: Some(443),
            rule: Some("allow=a.com".to_owned()),
            reason: "ended".to_owned(),
            claimed_pid: Some(7),
            claimed_process: Some("cu\x1brl".to_owned()),
            sent: Some(5),
            received: Some(2048),
        };
        assert_eq!(
            line(&record),
            "01:01:01  ended    tcp  a.com:443 (1.2.3.4)  allow=a.com  ended  5B out, 2.0K in  (claims to be cu\\u{1b}rl, 7)"
        );
    }
}
