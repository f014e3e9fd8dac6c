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
//! | [`find_program`] | programs of this host |
//! | [`registry`](Registry) | the table of providers of this build |

pub mod container;
pub mod dangerous_host;
pub mod docker;
pub mod doctor;
pub mod firecracker;
pub mod gvisor;
mod host;
pub mod kvm;
pub mod machine;
mod program;
pub mod qemu;
mod registry;
pub mod remote;
mod vmm;

pub use host::owner::{as_layer_owner, layer_ids};
pub use program::find_program;
pub use registry::{Enrolled, PROVIDERS, Provider, ProviderOptions, Registry};
