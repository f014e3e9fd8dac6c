//! The small program inside every sandbox: it starts commands, carries their streams, moves files, dials ports, and reaps.
//!
//! One thread runs an event loop, one starts commands, and file work goes to short-lived threads with blocking calls. Everything it
//! keeps is bounded, and nothing that happens in the sandbox makes it panic, for it shares the sandbox with hostile code:
//!
//! | module | noun |
//! |---|---|
//! | `start` | the process itself: inherited descriptors, configuration, signals, limits |
//! | `door` | the listener, inherited or made here |
//! | `settings` | what the configuration means here |
//! | `guest` | the first process of a virtual machine's kernel |
//! | `pipe` | many connections through one virtio-serial port, in the guest and on its host |
//! | `launch` | on the host: a program that begins only when the ledger knows it |
//! | `confine` | on the host: what is left to a program that stands for a machine |
//! | `console` | on the host: what a machine prints, up to a bound |
//! | `share` | volumes of a virtual machine: the mount inside, and who serves it on the host |
//! | `server` | connections, and which operation goes where |
//! | `agent` | what all connections share |
//! | `memory` | what it holds when idle |
//! | `readiness` | descriptors of connections in the event loop |
//! | `twin` | what is to be known of a connection by vsock beside its bytes |
//! | `watched` | descriptors in the event loop that outlive connections |
//! | `failure` | a refusal, as the host reads it |
//! | `command`, `environment`, `users` | what an exec request means here |
//! | `spawn`, `child`, `forks` | the thread that starts commands, a child's steps up to exec, the children on their way |
//! | `terminal` | pseudo terminals |
//! | `ring` | the newest output of one process, by offset |
//! | `process`, `table` | one process, all processes |
//! | `pump` | output from pipe to ring, timeout, the end |
//! | `session` | one attached client: input in, output out |
//! | `signals`, `reaper` | signals as events; children that ended |
//! | `dial`, `ports` | a stream to a port inside; which are open |
//! | `egress` | what leaves: redirected here, decided by the host |
//! | `transfer` | blocking work on a thread with the connection |
//! | `files`, `put`, `get`, `listing` | file operations |
//! | `watch` | inotify |
//! | `procfs`, `usage` | processes as the kernel shows them |
//! | `identity` | what a memory restore renews |
//! | `shutdown` | the end of everything |

mod agent;
mod child;
mod command;
mod confine;
mod console;
mod dial;
mod door;
mod egress;
mod environment;
mod failure;
mod files;
mod forks;
mod get;
mod guest;
mod identity;
mod launch;
mod listing;
mod memory;
mod pipe;
mod ports;
mod process;
mod procfs;
mod pump;
mod put;
mod readiness;
mod reaper;
mod ring;
mod server;
mod session;
mod settings;
mod share;
mod shutdown;
mod signals;
mod spawn;
mod start;
mod table;
mod terminal;
mod transfer;
mod twin;
mod usage;
mod users;
mod watch;
mod watched;

pub use start::run;
