//! The process that keeps what must go on after a command has returned: exposed ports, decisions about what leaves, and the end of a time to live.
//!
//! One per sandbox, only while it is needed. It holds no terminal, no descriptor of the command that started it, and nothing that is not in the
//! ledger too: it may be killed at any time, and the next command starts another one, which listens at the same addresses.
//!
//! | module | noun |
//! |---|---|
//! | `spawn` | starting one, and finding out whether one is needed |
//! | `control` | what commands say to it, over a socket in the state folder |
//! | `process` | its body |
//! | `descriptors` | what it must not inherit |
//! | `expose` | [`Sandbox::expose_port`](crate::Sandbox::expose_port) and its siblings, which are its callers |

mod control;
mod descriptors;
mod expose;
mod process;
mod spawn;

pub(crate) use process::is_keeper;
pub(crate) use spawn::remove_files;
