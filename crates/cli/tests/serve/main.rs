//! `sandbar serve`: the real server over real connections, with containers behind it.
//!
//! | module | what it is about |
//! |---|---|
//! | `server` | a server in a state folder of its own, and a client that has its token |
//! | `life` | sandboxes, from making to removing |
//! | `commands` | exec, processes, WebSockets |
//! | `files` | files and trees |
//! | `host` | images, kernels, templates, keys, and what a sandbox may reach |
//! | `operations` | every operation there is, with what is to be true of it |
//! | `keys` | who has a key: what it opens, and what not |
//! | `audit` | what is told of all that |
//! | `events` | what is told as it happens |
//! | `logs` | what the server's own log has of each request |
//! | `metrics` | what is counted and measured |
//! | `strangers` | who has no token, or was sent by a page; what makes no sense |
//! | `hostile` | who says half, or what no protocol knows |
//! | `vanished` | who goes without a word |
//! | `faults` | a server that is stopped, or killed |
//! | `load` | many at once |
//! | `amid` | who does not read, and who goes without a word, amid all that |

#![expect(clippy::unwrap_used, reason = "what a test cannot do, it has to fail of")]

mod amid;
mod audit;
mod commands;
mod events;
mod faults;
mod files;
mod host;
mod hostile;
mod keys;
mod life;
mod load;
mod logs;
mod metrics;
mod operations;
mod server;
mod strangers;
mod vanished;
