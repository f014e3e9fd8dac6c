//! Descriptors in the event loop.
#![expect(unsafe_code, reason = "the event loop cannot know by itself that a descriptor is not closed behind its back")]

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers a descriptor with the event loop, which owns it from then on.
pub(crate) fn register(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open and the same until it is dropped, which is after it was taken out of the loop.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
