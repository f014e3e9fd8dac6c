//! The messages. Field numbers are for ever; see the crate's documentation.
//!
//! Paths and arguments are bytes, since Linux's are. Times are Unix nanoseconds or milliseconds as the name says.

mod control;
mod egress;
mod file;
mod process;

use prost::{Message, Oneof};

pub use control::{
    Ack, Dial, Empty, Failure, GetLayer, Identity, OpenPorts, Ping, Pong, Quiesce, Renewal, Resumed, Settle, Share, Shutdown, Usage,
    UsageReport, WatchPorts,
};
pub use egress::{Claimed, Egress, Leave, Question, Remote, Verdict, question};
pub use file::{DirEntries, Entry, KindOfFile, MakeDir, Owner, Put, ReadDir, Remove, Rename, Stat, Symlink, Target, Watch, WatchEvent};
pub use process::{
    Attach, Chunk, EnvVar, Exec, Exited, List, Lost, Process, ProcessList, PtySize, SignalProcess, Started, Status, UserRef, user_ref,
};

/// The first frame of a connection.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// What to do.
    #[prost(
        oneof = "request::Operation",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 27, 28"
    )]
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
        /// The writable layer of a guest, as an OCI layer, while its other processes stand still → `Done`, then Bytes frames of a tar stream
        /// and `End`.
        #[prost(message, tag = "22")]
        GetLayer(GetLayer),
        /// Decide about what leaves → `Done`, then `Question` messages, answered by `Verdict` messages or [`Leave`].
        #[prost(message, tag = "23")]
        Egress(Egress),
        /// → `Done`, then raw bytes both ways.
        #[prost(message, tag = "24")]
        Leave(Leave),
        /// → `Done`, then `Event` messages with `Ports`: at once, and after each change, until either side closes.
        #[prost(message, tag = "25")]
        WatchPorts(WatchPorts),
        /// Mount a volume that the host serves → `Done`, then FUSE both ways: requests of the guest's kernel, and their answers.
        #[prost(message, tag = "27")]
        Share(Share),
        /// All volumes are there → `Done`, when what depends on them was looked at anew: the working directory, users.
        #[prost(message, tag = "28")]
        Settle(Settle),
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
    #[prost(oneof = "event::What", tags = "1, 2, 3, 4, 5, 6")]
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
        /// The ports that something inside listens on, all of them.
        #[prost(message, tag = "6")]
        Ports(OpenPorts),
    }
}
