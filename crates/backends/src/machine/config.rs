//! What the agent is told at its start.

use sandbar_core::{RootSource, SandboxSpec, User};
use sandbar_protocol::{AgentConfig, EnvVar, UserRef, user_ref};

/// Output that the agent keeps for each process: what a terminal's scroll-back or a container's log tail shows, and small beside any workload.
pub const RING_BYTES: u64 = 1 << 20;

/// The part of the agent's configuration that follows from the specification and the image alone. The walls add what is theirs.
pub fn agent_config(spec: &SandboxSpec, root: &RootSource) -> AgentConfig {
    let mut variables = root.env.clone();
    variables.extend(spec.env.clone());
    AgentConfig {
        env: variables.into_iter().map(|(name, value)| EnvVar { name: name.into(), value: Some(value.into()) }).collect(),
        workdir: spec.workdir.as_ref().or(root.workdir.as_ref()).map(|path| path.clone().into_bytes()),
        user: spec.user.as_ref().or(root.user.as_ref()).map(user_ref),
        open_files: spec.limits.open_files,
        ring_bytes: RING_BYTES,
        ..AgentConfig::default()
    }
}

/// A user as the agent understands it.
pub(crate) fn user_ref(user: &User) -> UserRef {
    match user {
        User::Name(name) => UserRef { which: Some(user_ref::Which::Name(name.clone())), gid: None },
        User::Id { uid, gid } => UserRef { which: Some(user_ref::Which::Uid(*uid)), gid: *gid },
    }
}
