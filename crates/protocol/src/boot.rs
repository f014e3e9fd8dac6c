use prost::{Enumeration, Message};

/// The first bytes of the disk that a guest's agent reads its [`AgentConfig`](crate::AgentConfig) from: then its length as a big-endian
/// `u32`, and it.
pub const CONFIG_DISK_MAGIC: &[u8; 16] = b"SANDBAR-CONFIG\x00\x01";

/// What the agent does as the first process of a kernel before it is an agent like others.
#[derive(Clone, PartialEq, Message)]
pub struct GuestBoot {
    /// The disks behind the one with the configuration, in the order in which the machine has them.
    #[prost(message, repeated, tag = "1")]
    pub disks: Vec<GuestDisk>,
    /// The host name.
    #[prost(string, tag = "2")]
    pub hostname: String,
    /// How the host's connections come.
    #[prost(enumeration = "GuestWire", tag = "3")]
    pub wire: i32,
    /// What everything but the agent may use, by the guest's own kernel.
    #[prost(message, optional, tag = "4")]
    pub limits: Option<GuestLimits>,
}

/// What everything in a guest but the agent may use. Root inside can lift these: what holds whatever happens are the machine's memory,
/// processors and disks.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct GuestLimits {
    /// Bytes of memory.
    #[prost(uint64, optional, tag = "1")]
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    #[prost(uint64, optional, tag = "2")]
    pub processes: Option<u64>,
    /// Thousandths of a processor.
    #[prost(uint64, optional, tag = "3")]
    pub cpu_millis: Option<u64>,
}

/// A disk of a guest.
#[derive(Clone, PartialEq, Message)]
pub struct GuestDisk {
    /// What it is.
    #[prost(enumeration = "DiskRole", tag = "1")]
    pub role: i32,
    /// Where a volume goes.
    #[prost(bytes = "vec", tag = "2")]
    pub target: Vec<u8>,
}

/// What a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum DiskRole {
    /// None that this agent knows: left alone.
    Unknown = 0,
    /// A read-only layer (squashfs); the first is the image, the others lie above it.
    Layer = 1,
    /// The writable disk (ext4).
    Scratch = 2,
    /// A read-only volume (squashfs).
    Volume = 3,
}

/// How the host's connections come into a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum GuestWire {
    /// The agent says that it knows no such way.
    Unknown = 0,
    /// The agent listens on [`VSOCK_PORT`].
    Vsock = 1,
    /// One virtio-serial port, [`SERIAL_PORT`], carries all of them; see the agent's `pipe`.
    Serial = 2,
}

/// Where the agent listens in a guest with vsock.
pub const VSOCK_PORT: u32 = 1024;
/// The name of the virtio-serial port, as the machine gives it and `/sys/class/virtio-ports/*/name` shows it.
pub const SERIAL_PORT: &str = "sandbar.agent";
