//! The program that cases put into sandboxes; its source is `guest/`.

/// A static executable for the architecture of this build.
pub const PROGRAM: &[u8] = include_bytes!(env!("SANDBAR_GUEST_PROGRAM"));

/// Its name in the working directory.
pub(crate) const NAME: &str = "guest";
/// The command that executes it.
pub(crate) const COMMAND: &str = "./guest";
