//! One behaviour suite for every provider.
//!
//! A [`Case`] states one fact of the contract in `sandbar-core`. A [`Subject`] is a provider as it is tested here, and a [`Context`]
//! makes its sandboxes for one case, destroys them, and checks that nothing is left. What a provider claims must work; what it does
//! not claim must be refused. [`escape`] is the other suite: programs that try to leave a container.
//!
//! [`FakeProvider`] keeps the contract in memory, so that what stands above the providers can be tested without privileges.

pub mod case;
mod context;
pub mod escape;
mod failure;
mod fake;
mod guest;
mod hard_tree;
mod harness;
mod host;
mod loopback;
mod recorder;
mod sandbox;
mod stream;
mod subject;
mod suite;
mod tarball;

pub use context::Context;
pub use failure::Failure;
pub use fake::FakeProvider;
pub use guest::PROGRAM as GUEST_PROGRAM;
pub use hard_tree::PROGRAM as HARD_TREE_PROGRAM;
pub use harness::{Account, Availability, Prepare, Variant, World, run};
pub use loopback::stay_on_loopback;
pub use recorder::Recorder;
pub use sandbox::Sandbox;
pub use subject::{Claims, Crash, IdPool, Part, Reach, Subject};
pub use suite::Case;
