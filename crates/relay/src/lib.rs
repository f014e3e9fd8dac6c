//! Bytes from one socket to another, for the agent inside a sandbox and for the host.
//!
//! | module | noun |
//! |---|---|
//! | `socket` | [`Socket`]: one of the event loop, for calls that the loop does not know |
//! | `pass` | [`pass()`]: one direction to its end; [`Toll`]: who has a say about how much |
//! | `patient` | [`Patient`]: a connection whose other side may vanish |
//! | `pipe` | what bytes go through, where they are moved by page and not copied |

mod pass;
mod patient;
#[cfg_attr(not(target_os = "linux"), path = "no_pipe.rs")]
mod pipe;
mod socket;

pub use pass::{Free, Toll, end, pass, pass_bytes, write};
pub use patient::Patient;
pub use socket::Socket;
