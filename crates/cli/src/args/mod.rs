//! What the command line's words mean: parsers without side effects.

mod decimal;
mod duration;
mod environment;
mod listen;
mod location;
mod size;
mod volume;

pub(crate) use duration::duration;
pub(crate) use environment::Variable;
pub(crate) use listen::listen;
pub(crate) use location::Location;
pub(crate) use size::{cpus, size};
pub(crate) use volume::volume;
