//! Containers of the Docker Engine, or of another engine that speaks its API, with any runtime that the engine has.
//!
//! | module | noun |
//! |---|---|
//! | `endpoint` | where the engine is: configuration, `DOCKER_HOST`, contexts, the usual sockets |
//! | `engine`, `error` | requests with deadlines on a thread of their own, what the engine is, what its refusals mean |
//! | `wall` | the backend |
//! | `boot` | bringing up a sandbox, and starting it again |
//! | `container` | what a container is created with: the wall, as far as the engine lets us build it |
//! | `object` | one container: state, end, removal, the way to the agent |
//! | `freezer` | freezing and thawing it, and what the engine has not heard of that yet |
//! | `shim` | what stands between it and the engine, and may be left when nothing runs any more |
//! | `place` | where one agent runs, and what this host knows of it |
//! | `image`, `archive` | the store's layers in the engine, loaded once |
//! | `holes` | what archives do not carry of files |
//! | `fetch` | the engine's own images, for the store |
//! | `collect` | what the engine has of a state folder, and nobody needs |
//! | `layer` | the writable layer, where the engine keeps it |
//! | `memory` | processes saved and loaded, by a runtime that can |
//! | `owner` | labels: whose an object of the engine is |
//! | `limits`, `usage` | what a sandbox may use, and uses |
//! | `info` | what the provider claims here |
//!
//! The agent, its configuration and the folder of its socket are mounted below `/.sandbar`, so the image needs nothing inside. The writable layer
//! stays in the engine's container, which a stop keeps.

mod archive;
mod boot;
mod collect;
mod container;
mod endpoint;
mod engine;
mod error;
mod fetch;
mod freezer;
mod holes;
mod image;
mod info;
mod layer;
mod limits;
mod memory;
mod object;
mod owner;
mod place;
mod shim;
mod usage;
mod wall;

pub use boot::STEPS;
pub use info::claim;
pub use place::Place;
pub use wall::{Docker, DockerProvider};
