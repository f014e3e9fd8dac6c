//! One folder per provider, and the machine adapter that gives a full handle to any wall.
//!
//! | module | noun |
//! |---|---|
//! | [`machine`] | the adapter: everything that is the same behind every wall |
//! | [`container`] | namespaces, seccomp, Landlock, control groups |
//! | [`firecracker`] | a microVM on KVM |
//! | [`qemu`] | a virtual machine, with KVM or without |
//! | [`gvisor`] | a user-space kernel, by `runsc` |
//! | [`docker`] | containers of the Docker Engine |
//! | [`dangerous_host`] | no wall |
//! | [`remote`] | a provider of another sandbar, on another host |
//! | `host` | what walls on this host's own kernel share |
//! | `vmm` | what walls around virtual machines share |
//! | [`doctor`] | what this host offers to walls |
//! | [`kvm`] | whether this machine's KVM runs a stock guest |
//! | [`options`] | how providers are to be used |
//! | [`find_program`] | programs of this host |
//! | [`Distribution`] | the command by which this host installs one |
//! | `expose` | ports of sandboxes as ports of this host |
//! | [`registry`](Registry) | the table of providers of this build |
//!
//! Walls are for Linux. Built for another system there is `remote` alone.

#[cfg(target_os = "linux")]
pub mod container;
#[cfg(target_os = "linux")]
pub mod dangerous_host;
mod distribution;
#[cfg(target_os = "linux")]
pub mod docker;
pub mod doctor;
mod expose;
#[cfg(target_os = "linux")]
pub mod firecracker;
#[cfg(target_os = "linux")]
pub mod gvisor;
#[cfg(target_os = "linux")]
mod host;
#[cfg(target_os = "linux")]
pub mod kvm;
#[cfg(target_os = "linux")]
pub mod machine;
pub mod options;
mod program;
#[cfg(target_os = "linux")]
pub mod qemu;
mod registry;
pub mod remote;
#[cfg(target_os = "linux")]
mod vmm;

pub use distribution::Distribution;
pub use expose::Forwarding;
#[cfg(target_os = "linux")]
pub use host::owner::{as_layer_owner, layer_ids};
pub use program::find_program;
pub use registry::{Enrolled, PROVIDERS, Provider, ProviderOptions, Registry};
