//! Sandboxes on another host, by the real command: the other host is this one, with a state folder of its own.
//!
//! | module | what it is about |
//! |---|---|
//! | `world` | two state folders, a server, a login |
//! | `http` | over a server on loopback |
//! | `ssh` | over a real `sshd` on loopback |

#![expect(clippy::unwrap_used, reason = "what a test cannot do, it has to fail of")]

mod http;
mod ssh;
mod world;
