//! What `runsc` is told: the OCI specification.
//!
//! It names paths as the sandbox's first process sees them, so nothing in it tells where things are on the host.

use std::path::Path;

use sandbar_core::Volume;
use sandbar_protocol::CONFIG_OPTION;
use serde_json::{Value, json};

use crate::host::capabilities::KEPT_NAMES;

/// The bundle's folder.
pub(super) const BUNDLE: &str = "/b";
/// The sandbox's root file system in it.
pub(super) const ROOT: &str = "/b/root";
/// The folder with the agent and its configuration, which cannot be written inside.
pub(super) const AGENT: &str = "/b/agent";
/// The folder with the agent's socket.
pub(super) const WIRE: &str = "/b/wire";
/// `/etc/hosts`.
pub(super) const HOSTS: &str = "/b/hosts";
/// The specification itself.
pub(super) const CONFIG: &str = "/b/config.json";
/// A checkpoint's memory, where one is loaded.
pub(super) const IMAGE: &str = "/b/image";

/// [`AGENT`] inside. Below `/dev`, which is the sentry's own: mount points elsewhere would be made in the writable layer.
const AGENT_INSIDE: &str = "/dev/.sandbar";
/// [`WIRE`] inside.
pub(super) const WIRE_INSIDE: &str = "/dev/.wire";

/// Where a volume is until `runsc` mounts it.
pub(super) fn volume(index: usize) -> String {
    format!("{BUNDLE}/v{index}")
}

/// What a specification is made from.
pub(super) struct Outline<'a> {
    pub(super) hostname: &'a str,
    pub(super) volumes: &'a [Volume],
    /// Bytes of /dev/shm.
    pub(super) shared_memory: u64,
    /// RLIMIT_NOFILE.
    pub(super) open_files: u64,
    /// Whether the agent redirects what would leave. It gives up what that takes before the first command.
    pub(super) redirects: bool,
}

/// The specification.
pub(super) fn specification(outline: &Outline<'_>) -> Value {
    // The agent names the sandbox after a restore, which needs SYS_ADMIN. It takes that from every command, and uses it for that alone: with
    // it, the limit of processes would not hold for the agent.
    let redirecting = if outline.redirects { &["CAP_NET_ADMIN", "CAP_NET_RAW"][..] } else { &[] };
    let effective: Vec<&str> = KEPT_NAMES.iter().chain(redirecting).copied().collect();
    let capabilities: Vec<&str> = effective.iter().copied().chain(["CAP_SYS_ADMIN"]).collect();
    let mut mounts = vec![
        // Of no type that is known: it is not mounted, but without a word about /tmp the sentry hides an empty one under a file system of
        // its own, and what is written there would be in no checkpoint.
        mount("/tmp", "sandbar-layer", "none", &[]),
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["mode=755", "nosuid"]),
        mount("/dev/pts", "devpts", "devpts", &["nosuid", "noexec"]),
        mount("/dev/shm", "tmpfs", "tmpfs", &["nosuid", "nodev", "mode=1777", &format!("size={}", outline.shared_memory)]),
        mount("/sys", "sysfs", "sysfs", &["ro", "nosuid", "noexec", "nodev"]),
        mount(AGENT_INSIDE, "bind", AGENT, &["rbind", "ro"]),
        mount(WIRE_INSIDE, "bind", WIRE, &["rbind", "rw", "nosuid", "nodev", "noexec"]),
        mount("/etc/hosts", "bind", HOSTS, &["rbind", "rw", "nosuid", "nodev"]),
    ];
    for (index, wanted) in outline.volumes.iter().enumerate() {
        let access = if wanted.read_only { "ro" } else { "rw" };
        mounts.push(mount_at(&wanted.target, "bind", &volume(index), &["rbind", access, "nosuid", "nodev"]));
    }
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }));
    let limit = |name: &str, value: u64| json!({ "type": name, "soft": value, "hard": value });
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": [format!("{AGENT_INSIDE}/program"), CONFIG_OPTION.to_owned(), format!("{AGENT_INSIDE}/config")],
            "env": [],
            "cwd": "/",
            "capabilities": { "bounding": capabilities, "effective": effective, "permitted": capabilities },
            "rlimits": [limit("RLIMIT_NOFILE", outline.open_files), limit("RLIMIT_CORE", 0)],
            "noNewPrivileges": true,
        },
        "root": { "path": "root", "readonly": false },
        "hostname": outline.hostname,
        "mounts": mounts,
        "linux": { "namespaces": namespaces },
    })
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Value {
    mount_at(Path::new(destination), kind, source, options)
}

fn mount_at(destination: &Path, kind: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}
