//! Many connections through one pipe: the virtio-serial port of a virtual machine.
//!
//! A port carries one stream of bytes and takes one client. So on the host one small process, this program in another role ([`host`]),
//! owns the machine's end and listens in the generation's folder; in the guest the agent owns the other end. Each connection is a
//! numbered stream with a window of its own, so that a slow reader holds back its own stream only; only the host opens streams.
//!
//! | module | noun |
//! |---|---|
//! | `frame` | what goes through the pipe; how both ends find one another again |
//! | `session` | the streams of one meeting |
//! | `guest`, `host` | the two ends |
//!
//! Yamux is not used, for two reasons. A guest that is restored from memory may be in the middle of a frame that nobody will ever finish,
//! so the ends must be able to find one another within any rubbish, which yamux has no word for. And its implementation brings
//! `futures`, `parking_lot` and `rand` into a program that every sandbox pays for.

mod frame;
mod guest;
mod host;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use guest::start as run_in_guest;
pub(crate) use host::run as run_on_host;
