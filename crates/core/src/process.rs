use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, User};

/// What to execute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// Arguments as they are; the first is looked up in the `PATH` of the process's environment unless it has a slash.
    Argv(Vec<Vec<u8>>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

/// The size of a terminal, in characters.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtySize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}

/// One command to execute inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecRequest {
    /// What to execute.
    pub program: Program,
    /// Added to the sandbox's environment; a value of `None` removes the variable.
    pub env: BTreeMap<String, Option<String>>,
    /// Working directory; the sandbox's own when `None`. Must exist.
    pub workdir: Option<String>,
    /// The user; the sandbox's own when `None`. Needs [`Feature::User`](crate::Feature::User).
    pub user: Option<User>,
    /// A terminal instead of pipes: one stream, told as [`OutputKind::Stdout`]. Needs [`Feature::Pty`](crate::Feature::Pty).
    pub pty: Option<PtySize>,
    /// Whether stdin is streamed by the client; otherwise the process reads end-of-file at once (with a terminal: stdin is
    /// always streamed).
    pub stdin: bool,
    /// After this long the process group gets `TERM`, and after [`grace`](Self::grace) `KILL`.
    pub timeout: Option<Duration>,
    /// Between `TERM` and `KILL`.
    pub grace: Duration,
    /// Whether the process group gets `KILL` when the client that started it goes away. Otherwise it outlives its client.
    pub kill_on_disconnect: bool,
}

impl ExecRequest {
    /// Seconds between `TERM` and `KILL` unless said otherwise; `docker stop` waits 10, `timeout -k` has no default.
    pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

    /// A command by its arguments.
    pub fn argv<S: Into<Vec<u8>>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self::new(Program::Argv(argv.into_iter().map(Into::into).collect()))
    }

    /// A line for the shell.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::new(Program::Shell(line.into()))
    }

    fn new(program: Program) -> Self {
        Self {
            program,
            env: BTreeMap::new(),
            workdir: None,
            user: None,
            pty: None,
            stdin: false,
            timeout: None,
            grace: Self::DEFAULT_GRACE,
            kill_on_disconnect: false,
        }
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), Some(value.into()));
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn workdir(mut self, path: impl Into<String>) -> Self {
        self.workdir = Some(path.into());
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn user(mut self, user: User) -> Self {
        self.user = Some(user);
        self
    }

    /// Streams stdin.
    #[must_use]
    pub fn with_stdin(mut self) -> Self {
        self.stdin = true;
        self
    }

    /// Asks for a terminal of this size.
    #[must_use]
    pub fn with_pty(mut self, size: PtySize) -> Self {
        self.pty = Some(size);
        self.stdin = true;
        self
    }

    /// Limits the wall time.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }
}

/// Which stream a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputKind {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// How a process ended.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The exit code, when it exited.
    pub code: Option<i32>,
    /// The signal number, when a signal ended it.
    pub signal: Option<i32>,
    /// Whether the request's timeout ended it.
    pub timed_out: bool,
}

impl ExitStatus {
    /// Exited with this code.
    pub const fn exited(code: i32) -> Self {
        Self { code: Some(code), signal: None, timed_out: false }
    }

    /// Ended by this signal.
    pub const fn signaled(signal: i32) -> Self {
        Self { code: None, signal: Some(signal), timed_out: false }
    }

    /// Whether the code is 0.
    pub fn success(&self) -> bool {
        self.code == Some(0) && !self.timed_out
    }

    /// The status a shell would report: the code, 128 + n after signal n, 124 after a timeout (as `timeout` does).
    pub fn shell_code(&self) -> u8 {
        match (self.timed_out, self.code, self.signal) {
            (true, ..) => 124,
            (_, Some(code), _) => (code & 0xff) as u8,
            (_, None, Some(signal)) => 128u8.wrapping_add((signal & 0x7f) as u8),
            (_, None, None) => 125,
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.timed_out, self.code, self.signal) {
            (true, ..) => f.write_str("timed out"),
            (_, Some(code), _) => write!(f, "exit {code}"),
            (_, None, Some(signal)) => write!(f, "signal {signal}"),
            (_, None, None) => f.write_str("unknown"),
        }
    }
}

/// A signal by its number on Linux (the guest's numbers, whatever the host is).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signal(pub i32);

/// Linux signal numbers on x86-64 and arm64, `signal(7)`.
const SIGNALS: [(&str, i32); 28] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("SYS", 31),
];

impl Signal {
    /// End at once.
    pub const KILL: Self = Self(9);
    /// Please end.
    pub const TERM: Self = Self(15);
    /// As by Ctrl-C.
    pub const INT: Self = Self(2);
    /// The terminal is gone.
    pub const HUP: Self = Self(1);
}

impl FromStr for Signal {
    type Err = Error;

    /// Accepts `TERM`, `SIGTERM`, `term` and `15`.
    fn from_str(text: &str) -> Result<Self> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let by_name = SIGNALS.into_iter().find(|(known, _)| *known == name).map(|(_, number)| number);
        let by_number = || name.parse().ok().filter(|number| (1..=64).contains(number));
        by_name.or_else(by_number).map(Self).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "signal", "not a signal's name or number").with("value", format!("{text:?}"))
        })
    }
}

/// A process that was started by exec, as the agent knows it (a claim: root inside can own the agent).
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// The process id inside the sandbox; also names the process for `attach`, `kill` and `logs`.
    pub pid: u32,
    /// The command, arguments joined for reading.
    pub command: String,
    /// Unix milliseconds when it was started.
    pub started_ms: u64,
    /// Unix milliseconds when it ended.
    pub ended_ms: Option<u64>,
    /// The status, when it has ended.
    pub status: Option<ExitStatus>,
    /// Whether it has a terminal.
    pub pty: bool,
    /// How many clients are attached.
    pub attached: u32,
    /// The number of output bytes (both streams) that were dropped from the ring: the oldest offset still there.
    pub output_start: u64,
    /// The number of output bytes (both streams) so far: the offset of the next one.
    pub output_end: u64,
    /// Counts memory restores: offsets of different epochs do not compare.
    pub epoch: u32,
}

/// What an attached client hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// Output, in order within each stream; never empty.
    Output {
        /// Which stream.
        kind: OutputKind,
        /// The offset of the first byte, counted over both streams.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// These many bytes were dropped before the next output, since nobody was attached and the ring was full.
    Lost {
        /// How many.
        bytes: u64,
    },
    /// The process ended and all its output was told. The last event.
    Exited(ExitStatus),
}

/// The writing side of an exec: stdin, signals, terminal size.
#[async_trait]
pub trait ExecInput: Send {
    /// Writes to stdin; waits while the process does not read (back-pressure).
    ///
    /// # Errors
    /// `Unavailable` when the process closed its stdin or is gone.
    async fn write(&mut self, data: Bytes) -> Result<()>;

    /// Ends stdin: the process reads end-of-file (a terminal gets its end-of-file character).
    async fn close(&mut self) -> Result<()>;

    /// Sends a signal to the process group (with a terminal: to its session's foreground group as well).
    async fn signal(&mut self, signal: Signal) -> Result<()>;

    /// Tells the terminal its new size.
    ///
    /// # Errors
    /// `InvalidInput` without a terminal.
    async fn resize(&mut self, size: PtySize) -> Result<()>;
}

/// The reading side of an exec.
#[async_trait]
pub trait ExecOutput: Send {
    /// The next event; `None` after [`ExecEvent::Exited`]. A client that does not call this holds the process back.
    ///
    /// # Errors
    /// `Unavailable` with the reason when the connection or the agent is gone before the end was told.
    async fn next(&mut self) -> Result<Option<ExecEvent>>;
}

/// A started, or re-attached, process. Dropping it detaches; the process lives on unless the request said otherwise.
pub struct ExecStream {
    /// The process id inside the sandbox.
    pub pid: u32,
    /// Stdin, signals, size.
    pub input: Box<dyn ExecInput>,
    /// Output and status.
    pub output: Box<dyn ExecOutput>,
}

impl fmt::Debug for ExecStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecStream").field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl ExecStream {
    /// Collects output until the end, as [`ExecResult::collect`] does.
    ///
    /// # Errors
    /// Those of [`ExecOutput::next`].
    pub async fn collect(mut self, limit: usize) -> Result<ExecResult> {
        ExecResult::collect(self.output.as_mut(), limit).await
    }
}

/// A finished command with its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output (all output, with a terminal).
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Bytes that were over the limit of the collection, or lost.
    pub dropped: u64,
}

impl ExecResult {
    /// Most bytes of each stream that [`SandboxHandle::exec`](crate::SandboxHandle::exec) keeps: 16 MiB.
    pub const DEFAULT_LIMIT: usize = 16 << 20;

    /// Collects output until the end, at most `limit` bytes of each stream; what is over is read and counted, not kept.
    ///
    /// # Errors
    /// Those of [`ExecOutput::next`].
    pub async fn collect(output: &mut dyn ExecOutput, limit: usize) -> Result<Self> {
        Self::collect_within(output, limit, |_| true).await
    }

    /// The same, where each piece of so many bytes is kept only if `has_room` for it; what is not is counted too.
    ///
    /// # Errors
    /// Those of [`ExecOutput::next`].
    pub async fn collect_within(output: &mut dyn ExecOutput, limit: usize, mut has_room: impl FnMut(usize) -> bool) -> Result<Self> {
        let mut result = Self { status: ExitStatus::exited(0), stdout: Vec::new(), stderr: Vec::new(), dropped: 0 };
        while let Some(event) = output.next().await? {
            match event {
                ExecEvent::Output { kind, data, .. } => {
                    let sink = match kind {
                        OutputKind::Stdout => &mut result.stdout,
                        OutputKind::Stderr => &mut result.stderr,
                    };
                    let wanted = data.len().min(limit.saturating_sub(sink.len()));
                    let kept = if has_room(wanted) { wanted } else { 0 };
                    sink.extend_from_slice(&data[..kept]);
                    result.dropped += (data.len() - kept) as u64;
                }
                ExecEvent::Lost { bytes } => result.dropped += bytes,
                ExecEvent::Exited(status) => result.status = status,
            }
        }
        Ok(result)
    }

    /// Standard output as text; invalid UTF-8 is replaced.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text; invalid UTF-8 is replaced.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shell_codes_are_those_of_a_shell() {
        assert_eq!(ExitStatus::exited(7).shell_code(), 7);
        assert_eq!(ExitStatus::signaled(9).shell_code(), 137);
        assert_eq!(ExitStatus { timed_out: true, ..ExitStatus::signaled(15) }.shell_code(), 124);
    }

    #[test]
    fn signals_parse_by_name_and_number() {
        for text in ["TERM", "SIGTERM", "sigterm", "15"] {
            assert_eq!(text.parse::<Signal>().unwrap(), Signal::TERM);
        }
        for text in ["", "0", "65", "-9", "SIGNOPE"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
