//! Processes: exec, attach, signals, records.

use prost::{Message, Oneof};

/// A user by name or number.
#[derive(Clone, PartialEq, Message)]
pub struct UserRef {
    /// Which.
    #[prost(oneof = "user_ref::Which", tags = "1, 2")]
    pub which: Option<user_ref::Which>,
    /// The group, with a number.
    #[prost(uint32, optional, tag = "3")]
    pub gid: Option<u32>,
}

/// The ways to name a user.
pub mod user_ref {
    use super::*;

    /// Which.
    #[derive(Clone, PartialEq, Eq, Oneof)]
    pub enum Which {
        /// From `/etc/passwd`.
        #[prost(string, tag = "1")]
        Name(String),
        /// As it is.
        #[prost(uint32, tag = "2")]
        Uid(u32),
    }
}

/// A variable; no value removes it.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct EnvVar {
    /// The name.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// The value.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub value: Option<Vec<u8>>,
}

/// A terminal's size.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PtySize {
    /// Lines.
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// Columns.
    #[prost(uint32, tag = "2")]
    pub columns: u32,
}

/// Starts a process.
#[derive(Clone, PartialEq, Message)]
pub struct Exec {
    /// The arguments; the first is looked up in PATH.
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub argv: Vec<Vec<u8>>,
    /// Changes to the sandbox's environment.
    #[prost(message, repeated, tag = "2")]
    pub env: Vec<EnvVar>,
    /// The working directory; the sandbox's own when absent.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub workdir: Option<Vec<u8>>,
    /// The user; the sandbox's own when absent.
    #[prost(message, optional, tag = "4")]
    pub user: Option<UserRef>,
    /// A terminal.
    #[prost(message, optional, tag = "5")]
    pub pty: Option<PtySize>,
    /// Whether stdin follows in Bytes frames.
    #[prost(bool, tag = "6")]
    pub stdin: bool,
    /// Milliseconds until TERM; 0 is never.
    #[prost(uint64, tag = "7")]
    pub timeout_ms: u64,
    /// Milliseconds from TERM to KILL.
    #[prost(uint64, tag = "8")]
    pub grace_ms: u64,
    /// Whether the group is killed when this connection ends.
    #[prost(bool, tag = "9")]
    pub kill_on_disconnect: bool,
}

/// Attaches to a process.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Attach {
    /// Which.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// The first offset wanted; the oldest kept when absent.
    #[prost(uint64, optional, tag = "2")]
    pub from: Option<u64>,
    /// The epoch that `from` is of; the agent's own when absent. Output of another epoch never was: what is wanted then is everything since the
    /// memory was saved.
    #[prost(uint32, optional, tag = "3")]
    pub epoch: Option<u32>,
    /// Kill the process group when this connection is lost: for a client that comes back.
    #[prost(bool, tag = "4")]
    pub kill_on_disconnect: bool,
}

/// A process was started, or found.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Started {
    /// The process id inside.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// The offset that the next output frame (or `Lost`) begins at.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
    /// Counts memory restores.
    #[prost(uint32, tag = "3")]
    pub epoch: u32,
    /// Bytes of stdin taken so far, from all clients.
    #[prost(uint64, tag = "4")]
    pub input: u64,
}

/// Output that is not kept any more.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Lost {
    /// How many bytes of both streams.
    #[prost(uint64, tag = "1")]
    pub bytes: u64,
}

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Status {
    /// The exit code.
    #[prost(int32, optional, tag = "1")]
    pub code: Option<i32>,
    /// The signal that ended it.
    #[prost(int32, optional, tag = "2")]
    pub signal: Option<i32>,
    /// Whether the timeout ended it.
    #[prost(bool, tag = "3")]
    pub timed_out: bool,
}

/// A process ended.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Exited {
    /// How.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
}

/// Asks for the processes.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct List {}

/// A process that exec started.
#[derive(Clone, PartialEq, Message)]
pub struct Process {
    /// The process id inside.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// For reading.
    #[prost(string, tag = "2")]
    pub command: String,
    /// Unix milliseconds.
    #[prost(uint64, tag = "3")]
    pub started_ms: u64,
    /// Unix milliseconds.
    #[prost(uint64, optional, tag = "4")]
    pub ended_ms: Option<u64>,
    /// When it has ended.
    #[prost(message, optional, tag = "5")]
    pub status: Option<Status>,
    /// Whether it has a terminal.
    #[prost(bool, tag = "6")]
    pub pty: bool,
    /// Clients attached.
    #[prost(uint32, tag = "7")]
    pub attached: u32,
    /// The oldest offset kept.
    #[prost(uint64, tag = "8")]
    pub output_start: u64,
    /// The next offset.
    #[prost(uint64, tag = "9")]
    pub output_end: u64,
    /// Counts memory restores.
    #[prost(uint32, tag = "10")]
    pub epoch: u32,
}

/// Processes.
#[derive(Clone, PartialEq, Message)]
pub struct ProcessList {
    /// In the order of their start.
    #[prost(message, repeated, tag = "1")]
    pub processes: Vec<Process>,
}

/// Signals a process group.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct SignalProcess {
    /// Which process.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// The number.
    #[prost(int32, tag = "2")]
    pub signal: i32,
}

/// The frames that follow, until the next message or `End`, are kept output of this process.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Chunk {
    /// Whose.
    #[prost(uint32, tag = "1")]
    pub pid: u32,
    /// The offset of the first byte.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
}
