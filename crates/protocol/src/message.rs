//! The messages. Field numbers are for ever; see the crate's documentation.
//!
//! Paths and arguments are bytes, since Linux's are. Times are Unix nanoseconds or milliseconds as the name says.

use prost::{Enumeration, Message, Oneof};

/// Nothing to say.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Empty {}

/// Done.
pub type Ack = Empty;

/// The first frame of a connection.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// What to do.
    #[prost(oneof = "request::Operation", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21")]
    pub operation: Option<request::Operation>,
}

/// The operations.
pub mod request {
    use super::*;

    /// What to do.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Operation {
        /// Are you there? → `Pong`.
        #[prost(message, tag = "1")]
        Ping(Ping),
        /// Start a process → `Started`, then frames.
        #[prost(message, tag = "2")]
        Exec(Exec),
        /// Attach to a process → `Started`, then frames.
        #[prost(message, tag = "3")]
        Attach(Attach),
        /// The processes → `Processes`.
        #[prost(message, tag = "4")]
        List(List),
        /// Signal a process group → `Done`.
        #[prost(message, tag = "5")]
        Signal(SignalProcess),
        /// Bytes frames and `End` follow → `Done` when the file stands.
        #[prost(message, tag = "6")]
        PutFile(Put),
        /// → `Entry`, then Bytes frames and `End`; a `Failure` message in the middle ends it.
        #[prost(message, tag = "7")]
        GetFile(Target),
        /// Bytes frames of a tar stream and `End` follow → `Done`.
        #[prost(message, tag = "8")]
        PutTree(Put),
        /// → `Done`, then Bytes frames of a tar stream and `End`.
        #[prost(message, tag = "9")]
        GetTree(Target),
        /// → any number of `Entries`, the last with `last`.
        #[prost(message, tag = "10")]
        ReadDir(ReadDir),
        /// → `Entry`.
        #[prost(message, tag = "11")]
        Stat(Stat),
        /// → `Done`.
        #[prost(message, tag = "12")]
        MakeDir(MakeDir),
        /// → `Done`.
        #[prost(message, tag = "13")]
        Rename(Rename),
        /// → `Done`.
        #[prost(message, tag = "14")]
        Symlink(Symlink),
        /// → `Done`.
        #[prost(message, tag = "15")]
        Remove(Remove),
        /// → `Done`, then `Event` messages with `Watch`, until either side closes.
        #[prost(message, tag = "16")]
        Watch(Watch),
        /// → `Done`, then raw bytes both ways.
        #[prost(message, tag = "17")]
        Dial(Dial),
        /// → `Usage`.
        #[prost(message, tag = "18")]
        Usage(Usage),
        /// Close everything towards the host before a save → `Done`, then the agent closes all and listens anew after `resume_after_ms`.
        #[prost(message, tag = "19")]
        Quiesce(Quiesce),
        /// After a memory restore: take this identity → `Renewed`.
        #[prost(message, tag = "20")]
        Resumed(Resumed),
        /// End all processes, hand over their records → `Processes`, then for each one with output a `Chunk` message and
        /// Stdout and Stderr frames, then `End`. The agent exits when the connection closes.
        #[prost(message, tag = "21")]
        Shutdown(Shutdown),
    }
}

/// The first frame of the answer.
#[derive(Clone, PartialEq, Message)]
pub struct Reply {
    /// The answer.
    #[prost(oneof = "reply::Answer", tags = "1, 2, 3, 4, 5, 6, 7, 8, 9")]
    pub answer: Option<reply::Answer>,
}

/// The answers.
pub mod reply {
    use super::*;

    /// The answer.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum Answer {
        /// It was done, or raw bytes follow.
        #[prost(message, tag = "1")]
        Done(Ack),
        /// It was not done.
        #[prost(message, tag = "2")]
        Failure(Failure),
        /// Here I am.
        #[prost(message, tag = "3")]
        Pong(Pong),
        /// The process runs, or was found.
        #[prost(message, tag = "4")]
        Started(Started),
        /// Processes.
        #[prost(message, tag = "5")]
        Processes(ProcessList),
        /// What a path is.
        #[prost(message, tag = "6")]
        Entry(Entry),
        /// A batch of entries.
        #[prost(message, tag = "7")]
        Entries(DirEntries),
        /// Usage.
        #[prost(message, tag = "8")]
        Usage(UsageReport),
        /// What was renewed.
        #[prost(message, tag = "9")]
        Renewed(Renewal),
    }
}

/// Host → agent, while a process runs.
#[derive(Clone, PartialEq, Message)]
pub struct Input {
    /// What.
    #[prost(oneof = "input::What", tags = "1, 2")]
    pub what: Option<input::What>,
}

/// What the host says while a process runs.
pub mod input {
    use super::*;

    /// What.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum What {
        /// A signal number for the process group.
        #[prost(int32, tag = "1")]
        Signal(i32),
        /// The terminal's new size.
        #[prost(message, tag = "2")]
        Resize(PtySize),
    }
}

/// Agent → host, after the reply.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// What.
    #[prost(oneof = "event::What", tags = "1, 2, 3, 4, 5")]
    pub what: Option<event::What>,
}

/// What the agent says after its reply.
pub mod event {
    use super::*;

    /// What.
    #[derive(Clone, PartialEq, Oneof)]
    pub enum What {
        /// Output was dropped before the next frame.
        #[prost(message, tag = "1")]
        Lost(Lost),
        /// The process ended; all output was sent.
        #[prost(message, tag = "2")]
        Exited(Exited),
        /// A change of a watched path.
        #[prost(message, tag = "3")]
        Watch(WatchEvent),
        /// The operation failed after its reply.
        #[prost(message, tag = "4")]
        Failure(Failure),
        /// The process has closed its stdin: what is sent from now on is thrown away.
        #[prost(message, tag = "5")]
        InputClosed(Empty),
    }
}

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
}

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

/// An owner.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Owner {
    /// User.
    #[prost(uint32, tag = "1")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "2")]
    pub gid: u32,
}

/// Where and how to put.
#[derive(Clone, PartialEq, Message)]
pub struct Put {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Permission bits.
    #[prost(uint32, optional, tag = "2")]
    pub mode: Option<u32>,
    /// Owner; the sandbox's user when absent.
    #[prost(message, optional, tag = "3")]
    pub owner: Option<Owner>,
    /// Make missing parents.
    #[prost(bool, tag = "4")]
    pub make_parents: bool,
    /// Refuse to replace.
    #[prost(bool, tag = "5")]
    pub no_replace: bool,
}

/// What to get.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Target {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// The first byte wanted.
    #[prost(uint64, tag = "2")]
    pub offset: u64,
}

/// Lists a directory.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReadDir {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
}

/// Asks what a path is.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Stat {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Follow a symbolic link.
    #[prost(bool, tag = "2")]
    pub follow: bool,
}

/// Makes a directory.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MakeDir {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Make missing parents; an existing directory is no error.
    #[prost(bool, tag = "2")]
    pub parents: bool,
    /// Permission bits; 0755 when absent.
    #[prost(uint32, optional, tag = "3")]
    pub mode: Option<u32>,
}

/// Renames.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Rename {
    /// From.
    #[prost(bytes = "vec", tag = "1")]
    pub from: Vec<u8>,
    /// To.
    #[prost(bytes = "vec", tag = "2")]
    pub to: Vec<u8>,
    /// Refuse to replace.
    #[prost(bool, tag = "3")]
    pub no_replace: bool,
}

/// Makes a symbolic link.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Symlink {
    /// Where it points.
    #[prost(bytes = "vec", tag = "1")]
    pub target: Vec<u8>,
    /// Where it stands.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
}

/// Removes.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Remove {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// With everything in it.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
    /// A missing path is no error.
    #[prost(bool, tag = "3")]
    pub missing_ok: bool,
}

/// What a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum KindOfFile {
    /// A device, fifo or socket.
    Other = 0,
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
}

/// What is known of a path.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    /// The name in its directory; empty in the answer to `Stat`.
    #[prost(bytes = "vec", tag = "1")]
    pub name: Vec<u8>,
    /// What it is.
    #[prost(enumeration = "KindOfFile", tag = "2")]
    pub kind: i32,
    /// Bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// Permission bits.
    #[prost(uint32, tag = "4")]
    pub mode: u32,
    /// Owner.
    #[prost(uint32, tag = "5")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "6")]
    pub gid: u32,
    /// Unix nanoseconds.
    #[prost(int64, tag = "7")]
    pub modified_ns: i64,
    /// Where a symbolic link points.
    #[prost(bytes = "vec", optional, tag = "8")]
    pub symlink_target: Option<Vec<u8>>,
}

/// A batch of entries.
#[derive(Clone, PartialEq, Message)]
pub struct DirEntries {
    /// The entries.
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<Entry>,
    /// No batch follows.
    #[prost(bool, tag = "2")]
    pub last: bool,
}

/// Watches a path.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Watch {
    /// The path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// With everything below.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
}

/// A change of a watched path.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct WatchEvent {
    /// 0 overflow, 1 created, 2 modified, 3 removed, 4 attributes.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// Relative to the watched path.
    #[prost(bytes = "vec", tag = "2")]
    pub path: Vec<u8>,
    /// Whether it is a directory.
    #[prost(bool, tag = "3")]
    pub is_directory: bool,
}

/// Connects to a port inside.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Dial {
    /// The port, 1 to 65535.
    #[prost(uint32, tag = "1")]
    pub port: u32,
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
    /// Milliseconds after which the agent listens again, if it was not saved and resumed meanwhile.
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
#[derive(Clone, PartialEq, Eq, Message)]
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
