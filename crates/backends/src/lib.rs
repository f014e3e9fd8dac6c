//! One folder per provider, and the machine adapter that gives a full handle to any wall.
//!
//! | module | noun |
//! |---|---|
//! | [`machine`] | the adapter: everything that is the same behind every wall |
//! | [`container`] | namespaces, seccomp, Landlock, control groups |
//! | [`dangerous_host`] | no wall |
//! | [`firecracker`] | a microVM under Firecracker |
//! | [`kvm`] | whether this machine's KVM runs a stock guest |
//! | [`registry`](Registry) | the table of providers of this build |

pub mod container;
pub mod dangerous_host;
pub mod firecracker;
pub mod kvm;
pub mod machine;
mod registry;

pub use registry::{Enrolled, PROVIDERS, Provider, ProviderOptions, Registry};
