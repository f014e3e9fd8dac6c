//! The contract that every wall meets.
//!
//! A *provider* makes sandboxes of one kind; a *handle* is one sandbox. What a provider claims in its
//! [`FeatureSet`] works, what it does not claim is refused by [`Checked`] with
//! the name of a provider that has it. This crate does no I/O: it holds the traits, the words they are written in, and the
//! rules (life cycle, errors, capabilities) that do not depend on any wall.

mod checked;
mod checkpoint;
mod egress;
mod error;
mod feature;
mod file;
mod handle;
mod id;
mod image;
mod isolation;
mod journal;
mod lifecycle;
mod network;
mod port;
mod process;
mod provider;
mod spec;
mod stats;

pub use checked::{Checked, CheckedHandle};
pub use checkpoint::{CheckpointKind, CheckpointOptions, Renewal, SavedCheckpoint};
pub use egress::{ClaimedProcess, DatagramStream, EgressQuestion, EgressStream, RemoteHost, Wanted};
pub use error::{Context, Error, ErrorKind, Result};
pub use feature::{Claim, Feature, FeatureSet};
pub use file::{DirEntry, FileKind, FileStat, PutOptions, RemoveOptions, WatchEvent, WatchEventKind, WatchStream};
pub use handle::SandboxHandle;
pub use id::{CheckpointId, SandboxId, check_name};
pub use image::{HostImage, ImageKind, RootSource};
pub use isolation::Isolation;
pub use journal::{Journal, NoJournal, Resource};
pub use lifecycle::{State, Verb};
pub use network::{
    Action, Decision, Destination, DomainName, NamePattern, Network, NetworkLimits, PLACEHOLDER_PREFIX, Policy, Ports, Protocol, Rule,
    Secret, SecretSource, SecretValue, Secrets, Target, no_datagrams_leave, only_ports_leave, special_purpose,
};
pub use port::{ByteStream, Connection, ExposedPort, PortStream, ReadAhead};
pub use process::{
    ExecEvent, ExecInput, ExecOutput, ExecRequest, ExecResult, ExecStream, ExitStatus, OutputKind, ProcessInfo, Program, PtySize, Signal,
};
pub use provider::{AttachRequest, Needs, Probe, ProviderInfo, ProvisionRequest, RestoreRequest, SandboxProvider};
pub use spec::{IdRange, Lifetime, Limits, SandboxSpec, User, Volume};
pub use stats::{LimitReport, SandboxStats, SandboxStatus};
