use prost::Message;

use crate::{EnvVar, GuestBoot, UserRef};

/// The descriptor that the agent reads its [`AgentConfig`] from, to the end: a memory file or a pipe.
pub const CONFIG_FD: i32 = 3;
/// The descriptor of the listening socket that the agent inherits.
pub const LISTEN_FD: i32 = 4;

/// The option of the agent's program that names the file with its [`AgentConfig`]. With it nothing is inherited, and the configuration must
/// have a `listen_folder`.
pub const CONFIG_OPTION: &str = "--config";
/// The name of the socket that the agent makes in `listen_folder`.
pub const AGENT_SOCKET: &str = "agent.sock";
/// The name of the file that ends a quiet agent's waiting, if it listens in `listen_folder`. The agent removes it.
pub const WAKE_FILE: &str = "wake";

/// What the agent is told when it is started. Its own environment is empty and its arguments say nothing.
#[derive(Clone, PartialEq, Message)]
pub struct AgentConfig {
    /// The environment of every command.
    #[prost(message, repeated, tag = "1")]
    pub env: Vec<EnvVar>,
    /// The working directory of every command, made if missing. The home of the user when absent.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub workdir: Option<Vec<u8>>,
    /// The user of every command; the agent's own when absent.
    #[prost(message, optional, tag = "3")]
    pub user: Option<UserRef>,
    /// The folder that file calls are confined to; the whole root file system when absent.
    #[prost(bytes = "vec", optional, tag = "4")]
    pub jail: Option<Vec<u8>>,
    /// Whether the agent is process 1 of a PID namespace or of a kernel. Otherwise it becomes a child subreaper.
    #[prost(bool, tag = "5")]
    pub init: bool,
    /// RLIMIT_NOFILE of every command.
    #[prost(uint64, optional, tag = "6")]
    pub open_files: Option<u64>,
    /// RLIMIT_NPROC of every command.
    #[prost(uint64, optional, tag = "7")]
    pub processes: Option<u64>,
    /// The capabilities that commands of uid 0 keep, as a bit mask; the agent removes all others from the bounding set of each command. Absent: unchanged.
    #[prost(uint64, optional, tag = "8")]
    pub capabilities: Option<u64>,
    /// `oom_score_adj` of every command, so that the kernel ends them before the agent.
    #[prost(int32, tag = "9")]
    pub oom_score_adj: i32,
    /// Bytes of output kept for each process.
    #[prost(uint64, tag = "10")]
    pub ring_bytes: u64,
    /// The agent ends, and everything with it, when this process id is no longer its parent. 0: never.
    #[prost(uint32, tag = "11")]
    pub owner_pid: u32,
    /// The absolute path of a folder in which the agent makes its socket ([`AGENT_SOCKET`]) itself, where no descriptor can be handed in. Between
    /// [`Quiesce`](crate::Quiesce) and its end there is no socket, and a file [`WAKE_FILE`] in the folder is that end. The listener is
    /// inherited when absent.
    #[prost(bytes = "vec", optional, tag = "12")]
    pub listen_folder: Option<Vec<u8>>,
    /// The agent ends, and everything with it, when its standard input ends: whoever held the other end is gone.
    #[prost(bool, tag = "13")]
    pub owner_input: bool,
    /// Whether connections may leave: the agent redirects them to itself, and asks the host ([`Egress`](crate::Egress)). Needs `CAP_NET_ADMIN`, which it
    /// gives up before the first command.
    #[prost(bool, tag = "14")]
    pub egress: bool,
    /// Whether datagrams must be able to leave as well. No host says so any more, and no agent asks: they leave where the kernel can divert them and the agent
    /// has `CAP_NET_RAW` beside, and [`Pong`](crate::Pong) says where they cannot.
    #[prost(bool, tag = "15")]
    pub datagrams: bool,
    /// What the first process of a kernel does before; absent everywhere else.
    #[prost(message, optional, tag = "20")]
    pub guest: Option<GuestBoot>,
}
