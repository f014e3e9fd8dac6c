//! The adapter between a wall and the contract.

mod backend;

pub use backend::{Backend, Boot, Facts};
