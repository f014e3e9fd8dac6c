use serde::{Deserialize, Serialize};

use crate::State;

/// Usage of one sandbox. A number is `None` where the provider cannot tell.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SandboxStats {
    /// Bytes of memory in use.
    pub memory_bytes: Option<u64>,
    /// The limit, bytes.
    pub memory_limit_bytes: Option<u64>,
    /// CPU time since the start, microseconds.
    pub cpu_micros: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes of the writable layer.
    pub disk_bytes: Option<u64>,
    /// The limit, bytes.
    pub disk_limit_bytes: Option<u64>,
    /// Bytes that went out since the sandbox was made, of one that is asked about what leaves. They are counted within seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_sent_bytes: Option<u64>,
    /// Bytes that came in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_received_bytes: Option<u64>,
    /// Names and connections that were allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_allowed: Option<u64>,
    /// Names and connections that were refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_refused: Option<u64>,
    /// Connections that were allowed, and could not be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network_failed: Option<u64>,
}

/// How one limit is held, for `inspect`.
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitReport {
    /// `memory`, `cpu`, `pids`, `disk`, `open-files`, `disk-rate`, `disk-operations`.
    pub limit: String,
    /// The value, in the units of [`Limits`](crate::Limits); `None` is unlimited.
    pub value: Option<u64>,
    /// By what it holds (`cgroup v2`, `cgroup v1`, `rlimit`, `loop device`, `tmpfs`), or why it does not.
    pub enforced_by: String,
}

/// What is true of a sandbox right now, from the host's own facts and the agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStatus {
    /// The state; `Running` only if the agent answered. Of a sandbox on another host that cannot be reached: as it was last known, with the reason.
    pub state: State,
    /// Why it is not what it was, or is not known, in one sentence.
    pub reason: Option<String>,
    /// Whether the host's own facts say so. They do not where an agent that the host sees alive was silent for too long, or where another host
    /// cannot be asked.
    pub certain: bool,
}
