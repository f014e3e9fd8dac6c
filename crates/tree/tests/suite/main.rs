//! What this crate promises, as facts, through its public face.
//!
//! | module | facts about |
//! |---|---|
//! | `base` | single paths, in a jail and from the root |
//! | `removal` | whole trees removed |
//! | `round_trip` | trees packed and unpacked again |
//! | `hostile` | archives that mean harm |
//! | `layers` | OCI whiteouts and overlayfs's marks |
//! | `merged` | what an overlay shows, packed without one |
//! | `copies` | trees copied and weighed |
//! | `races` | directories that a hostile thread swaps for links meanwhile |

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails by panicking and talks on stderr")]

mod base;
mod copies;
mod hostile;
mod layers;
mod merged;
mod person;
mod races;
mod removal;
mod round_trip;
mod snapshot;
mod tarball;
