use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::output;

/// What is logged where a log was asked for and nothing else was said.
const USUAL: &str = "info";

/// How a log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// An object a line
    Json,
}

/// Logs go to standard error, and only where `SANDBAR_LOG` or the command line asks for them: a subscriber costs every command something.
pub(crate) fn begin(asked: Option<LogFormat>) {
    let filter = std::env::var("SANDBAR_LOG").ok().filter(|filter| !filter.is_empty());
    if filter.is_none() && asked.is_none() {
        return;
    }
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter.as_deref().unwrap_or(USUAL))).with_writer(std::io::stderr);
    match asked {
        Some(LogFormat::Json) => subscriber.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
        Some(LogFormat::Text) | None => subscriber.with_ansi(output::is_coloured()).init(),
    }
}
