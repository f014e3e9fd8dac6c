//! Runs cases × variants as tests, each with a line of its own in the report.
//!
//! A variant that needs another user than root is run by a copy of this program under that user; the copy is told which cases to run
//! and answers with a line for each, and the tests of the variant look their results up.

mod account;
mod child;
mod owner;
mod program;
mod runner;
mod variant;
mod world;

pub use account::Account;
pub(crate) use owner::start as start_owner;
pub use program::run;
pub use variant::{Availability, Prepare, Variant};
pub use world::World;
