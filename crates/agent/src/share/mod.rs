//! Folders of the host in a virtual machine, live: the guest's kernel asks for what is in them (FUSE), its agent passes that on, and a process on the host
//! answers.
//!
//! | module | noun |
//! |---|---|
//! | `mount` | in the guest: the mount, and what passes on requests and answers |
//! | `host` | on the host: the process that serves one volume |
//! | `domain` | what keeps that process to the volume: Landlock |
//! | `server` | what each request means |
//! | `attributes` | extended attributes |
//! | `handles` | what is open |
//! | `nodes` | the names that the guest's kernel knows |
//! | `message` | requests and answers as bytes |
//!
//! The guest's kernel is hostile: it may say anything in any order. Names are single components, every path is resolved by the host's kernel beneath
//! the volume's root without a symbolic link on the way (`openat2`), nothing but regular files and folders is opened, and what may be held is bounded.

mod attributes;
mod domain;
mod handles;
mod host;
mod message;
mod mount;
mod nodes;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use host::run as run_on_host;
pub(crate) use mount::serve as serve_in_guest;

/// Most bytes that one write carries, and one read asks for: the kernel's own bound where nothing else is agreed upon (32 pages).
const MOST_DATA: usize = 128 << 10;
/// Most bytes of a message: data, and a head that is shorter than a page.
const MOST_MESSAGE: usize = MOST_DATA + 4096;
