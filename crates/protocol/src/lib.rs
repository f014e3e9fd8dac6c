//! What the host and the agent inside a sandbox say to one another.
//!
//! One operation is one connection:
//!
//! ```text
//! host  ─▶ preamble, Request frame, then what the operation needs (stdin, signals, file bytes)
//! agent ─▶ preamble, Reply frame,   then what the operation gives (output, entries, file bytes)
//! ```
//!
//! The host sends its preamble and request in one write, so an operation costs one round trip. There is no multiplexing: a
//! side that stops reading stops the other by the socket's own back-pressure. After the reply to `Dial` the connection carries raw
//! bytes, without frames; on vsock, where one direction cannot end alone, it carries `Bytes` and `End` frames both ways.
//!
//! A frame is a five byte header (payload length as big-endian `u32`, then the [`FrameKind`]) and the payload: a protobuf
//! message, or raw bytes. Both sides treat the other as hostile: lengths are bounded before anything is allocated.
//!
//! The schema is frozen by `tests/schema.rs`: fields are added with new numbers, never changed; a reader ignores what it does
//! not know; a new host talks to an old agent.

mod blocking;
mod boot;
mod config;
mod frame;
mod message;
mod preamble;
mod stream;

pub use blocking::{read_frame, write_frame};
pub use boot::{CONFIG_DISK_MAGIC, DiskRole, GuestBoot, GuestDisk, GuestLimits, GuestWire, SERIAL_PORT, VSOCK_PORT};
pub use config::{AGENT_SOCKET, AgentConfig, CONFIG_FD, CONFIG_OPTION, LISTEN_FD, WAKE_FILE};
pub use frame::{Frame, FrameError, FrameKind, HEADER, Header, MAX_BULK, MAX_MESSAGE, encode_frame, encode_message};
pub use message::{
    Ack, Attach, Chunk, Claimed, Dial, DirEntries, Egress, Empty, Entry, EnvVar, Event, Exec, Exited, Failure, GetLayer, Identity, Input,
    KindOfFile, Leave, List, Lost, MakeDir, OpenPorts, Owner, Ping, Pong, Process, ProcessList, PtySize, Put, Question, Quiesce, ReadDir,
    Remote, Remove, Rename, Renewal, Reply, Request, Resumed, Settle, Share, Shutdown, SignalProcess, Started, Stat, Status, Symlink,
    Target, Usage, UsageReport, UserRef, Verdict, Watch, WatchEvent, WatchPorts, event, input, question, reply, request, user_ref,
};
pub use preamble::{PREAMBLE, Preamble, VERSION};
pub use stream::{FrameReader, FrameWriter};
