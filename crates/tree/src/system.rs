//! What the kernels differ in, in the same words. Everything of this crate is for Linux, where sandboxes are; macOS, on which only a client of
//! other hosts runs, has what uploads and downloads need, and refuses the rest.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "linux")]
mod procfs;

#[cfg(target_os = "linux")]
pub(crate) use linux::*;
#[cfg(target_os = "macos")]
pub(crate) use macos::*;
