//! The sandbox itself: signs of life, ports, usage, saving, the end; and failures.

use prost::Message;

use crate::AgentConfig;

/// Nothing to say.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Empty {}

/// Done.
pub type Ack = Empty;

/// Asks for a sign of life.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Ping {}

/// A sign of life.
#[derive(Clone, PartialEq, Message)]
pub struct Pong {
    /// The agent's package version, for people.
    #[prost(string, tag = "1")]
    pub agent: String,
    /// Counts memory restores.
    #[prost(uint32, tag = "2")]
    pub epoch: u32,
    /// Why datagrams cannot leave, where connections can.
    #[prost(string, optional, tag = "3")]
    pub no_datagrams: Option<String>,
    /// The only ports that connections can leave to, where the kernel cannot redirect; all of them where empty.
    #[prost(uint32, repeated, tag = "4")]
    pub only_ports: Vec<u32>,
}

/// Connects to a port inside.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Dial {
    /// The port, 1 to 65535.
    #[prost(uint32, tag = "1")]
    pub port: u32,
}

/// Asks which ports something inside listens on, and to be told of changes.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct WatchPorts {}

/// The TCP ports of loopback that something inside listens on, in order; of more than 1,024 the lowest.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct OpenPorts {
    /// The ports.
    #[prost(uint32, repeated, tag = "1")]
    pub ports: Vec<u32>,
}

/// Asks for usage.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Usage {}

/// Usage as seen inside: for walls whose host cannot see it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct UsageReport {
    /// Bytes of resident memory of all processes that the agent sees.
    #[prost(uint64, tag = "1")]
    pub memory_bytes: u64,
    /// CPU microseconds of all processes that the agent sees, and of those that it reaped.
    #[prost(uint64, tag = "2")]
    pub cpu_micros: u64,
    /// Processes.
    #[prost(uint64, tag = "3")]
    pub pids: u64,
}

/// Close everything towards the host.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Quiesce {
    /// Milliseconds after which the agent listens again, if nothing told it to do so earlier (see `AgentConfig::listen_folder`).
    #[prost(uint64, tag = "1")]
    pub resume_after_ms: u64,
}

/// Who a sandbox is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Identity {
    /// The host name.
    #[prost(string, tag = "1")]
    pub hostname: String,
    /// 32 hexadecimal digits for /etc/machine-id.
    #[prost(string, tag = "2")]
    pub machine_id: String,
}

/// A memory image was resumed.
#[derive(Clone, PartialEq, Message)]
pub struct Resumed {
    /// 32 fresh random bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub seed: Vec<u8>,
    /// The time now, Unix nanoseconds.
    #[prost(int64, tag = "2")]
    pub now_ns: i64,
    /// The new identity; the old one is kept when absent.
    #[prost(message, optional, tag = "3")]
    pub identity: Option<Identity>,
    /// What the sandbox is from now on, where it was resumed from a template; unchanged when absent.
    #[prost(message, optional, boxed, tag = "8")]
    pub config: Option<Box<AgentConfig>>,
}

/// What was renewed.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Renewal {
    /// A line for each thing: `clock: stepped by 12.5 s`.
    #[prost(string, repeated, tag = "1")]
    pub done: Vec<String>,
    /// A line for each thing that could not be renewed, with the reason.
    #[prost(string, repeated, tag = "2")]
    pub failed: Vec<String>,
}

/// End everything.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Shutdown {
    /// Milliseconds from TERM to KILL.
    #[prost(uint64, tag = "1")]
    pub grace_ms: u64,
    /// Most bytes of output to hand over, over all processes; the newest win.
    #[prost(uint64, tag = "2")]
    pub output_limit: u64,
}

/// Why an operation failed.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Failure {
    /// An error kind by its name (`not_found` …). A name that the host does not know is an internal error.
    #[prost(string, tag = "1")]
    pub kind: String,
    /// For people.
    #[prost(string, tag = "2")]
    pub message: String,
    /// The system's error number, if it was the system's error.
    #[prost(int32, optional, tag = "3")]
    pub errno: Option<i32>,
}

/// Asks for the writable layer of a guest.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GetLayer {}

/// Mounts a volume that is served at the other end of the connection.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Share {
    /// The absolute path inside. Made if missing.
    #[prost(bytes = "vec", tag = "1")]
    pub target: Vec<u8>,
    /// Whether it cannot be written.
    #[prost(bool, tag = "2")]
    pub read_only: bool,
    /// Whether it is a file instead of a folder.
    #[prost(bool, tag = "3")]
    pub is_file: bool,
}

/// All volumes are there.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Settle {}
