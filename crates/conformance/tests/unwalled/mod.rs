//! Providers without a wall: there is nothing to escape from.

pub mod dangerous_host;
pub mod fake;
