use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use sandbar_core::{Error, ErrorKind, Result};
use sandbar_runtime::{AuditFilter, AuditLog, AuditPlace, AuditRecord, Elsewhere, Runtime};
use serde::Deserialize;

use super::elsewhere;
use crate::{args, error::Outcome, output};

/// How often a log that is followed is read.
const LOOK: Duration = Duration::from_millis(200);
/// The same of another host, where each time is a connection.
const LOOK_ELSEWHERE: Duration = Duration::from_secs(1);
/// Lines that are read at once.
const AT_ONCE: usize = 1000;

/// Print what was done to sandboxes, by whom, and what became of it
///
/// One a line: time (UTC), who, what, the sandbox, what of it, the outcome, and how long it took. The end of a command is told with its status, if anybody waited for it. By commands, programs and servers on this state folder. Of a command
/// in a sandbox the program's name is kept and no arguments; variables and contents are nowhere. The newest 28 to 32 MiB are kept.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sandbar audit --since 1h web
  sandbar audit --on farm --json > farm.jsonl      what its server's host has; a key needs the scope admin
  sandbar audit --follow --json | while read -r line; do logger -t sandbar \"$line\"; done")]
pub(crate) struct Audit {
    /// That of another host: a context, https:// or ssh://; a key of its server needs the scope admin
    #[arg(long, value_name = "PLACE")]
    on: Option<String>,
    /// Go on with what comes
    #[arg(short = 'f', long)]
    follow: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
    /// Only the last of it: seconds, or 5m, 2h, 30d
    #[arg(long, value_name = "SECONDS", value_parser = args::duration)]
    since: Option<Duration>,
    /// Only what was done to this sandbox, which may be gone: an id, its beginning, or a name
    id: Option<String>,
}

/// A log that is read part by part.
enum Log {
    /// This state folder's, and where it has been read to.
    Here(AuditLog, AuditPlace),
    /// Another host's, with its own word for the place.
    Elsewhere(Elsewhere, Option<String>),
}

/// A part of another host's.
#[derive(Debug, Deserialize)]
struct Part {
    items: Vec<AuditRecord>,
    next_cursor: String,
}

impl Log {
    async fn next(&mut self, filter: &AuditFilter) -> Result<Vec<AuditRecord>> {
        match self {
            Self::Here(log, place) => {
                let (records, next) = log.read(*place, AT_ONCE, filter)?;
                *place = next;
                Ok(records)
            }
            Self::Elsewhere(host, cursor) => {
                let part: Part = host.audit(cursor.as_deref(), AT_ONCE, filter.since_ms, filter.sandbox.as_deref()).await?;
                *cursor = Some(part.next_cursor);
                Ok(part.items)
            }
        }
    }

    fn look(&self) -> Duration {
        match self {
            Self::Here(..) => LOOK,
            Self::Elsewhere(..) => LOOK_ELSEWHERE,
        }
    }
}

impl Audit {
    pub(super) async fn run(self, runtime: &Runtime) -> Outcome {
        let mut log = match elsewhere::other_host(runtime, self.on.as_deref(), "audit log")? {
            None => Log::Here(runtime.audit_log(), AuditPlace::default()),
            Some(host) => Log::Elsewhere(host, None),
        };
        let since = self.since.map(|since| SystemTime::now().checked_sub(since).unwrap_or(UNIX_EPOCH));
        let since = since.map_or(Duration::ZERO, |since| since.duration_since(UNIX_EPOCH).unwrap_or_default());
        let since_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        let sandbox = match (&log, self.id) {
            (Log::Elsewhere(host, _), Some(id)) => Some(called_there(runtime, host, id).await),
            (_, id) => id,
        };
        let filter = AuditFilter { since_ms, sandbox };
        loop {
            let records = log.next(&filter).await?;
            for record in &records {
                output::line(&if self.json { json(record)? } else { line(record) })?;
            }
            if records.len() == AT_ONCE {
                continue;
            }
            if !self.follow {
                return Ok(());
            }
            tokio::time::sleep(log.look()).await;
        }
    }
}

/// What the other host calls a sandbox. It does not know what it is called here; of those that are not on it nothing is meant.
async fn called_there(runtime: &Runtime, host: &Elsewhere, word: String) -> String {
    match runtime.sandbox(&word).await {
        Ok(sandbox) if sandbox.provider().is_ok_and(|provider| host.has(&provider)) => sandbox.id().to_string(),
        _ => word,
    }
}

fn json(record: &AuditRecord) -> Result<String, Error> {
    serde_json::to_string(record)
        .map_err(|source| Error::new(ErrorKind::Internal, "json", "cannot write a record as JSON").with_source(source))
}

fn line(record: &AuditRecord) -> String {
    let sandbox = match (&record.sandbox, &record.name) {
        (Some(id), Some(name)) => format!("{id} ({name})"),
        (Some(id), None) => id.to_string(),
        (None, _) => "-".to_owned(),
    };
    let target = match (&record.target, record.pid, record.exit_code) {
        (_, Some(pid), Some(code)) => format!("{pid} with {code}"),
        (Some(target), Some(pid), None) => format!("{target} as {pid}"),
        (Some(target), None, _) => target.clone(),
        (None, ..) => "-".to_owned(),
    };
    let took = record.duration_micros as f64 / 1000.0;
    let time = output::moment(record.time_ms);
    output::escape(&format!("{time}  {}  {}  {sandbox}  {target}  {}  {took:.1}ms", record.actor, record.verb, record.outcome))
}

#[cfg(test)]
mod tests {
    use sandbar_runtime::Actor;

    use super::*;

    #[test]
    fn a_line_says_who_did_what_and_cannot_drive_the_terminal() {
        let record = AuditRecord {
            time_ms: 1_700_000_000_000,
            duration_micros: 1250,
            actor: Actor::Key { name: "ci".to_owned() },
            verb: "read".to_owned(),
            sandbox: Some("sb-bbbbbbbbbbbb".parse().unwrap()),
            name: Some("web".to_owned()),
            target: Some("/tmp/\x1b[2J".to_owned()),
            pid: None,
            exit_code: None,
            outcome: "not_found".to_owned(),
        };
        assert_eq!(line(&record), "2023-11-14T22:13:20Z  key ci  read  sb-bbbbbbbbbbbb (web)  /tmp/\\u{1b}[2J  not_found  1.2ms");
        let ended =
            AuditRecord { verb: "exit".to_owned(), target: None, pid: Some(7), exit_code: Some(137), outcome: "ok".to_owned(), ..record };
        assert_eq!(line(&ended), "2023-11-14T22:13:20Z  key ci  exit  sb-bbbbbbbbbbbb (web)  7 with 137  ok  1.2ms");
    }
}
